// Command hydra is Ory Hydra, built from its Go module so that the tests need no image and no
// download besides Go's module proxy.
package main

import "github.com/ory/hydra/v2/cmd"

func main() { cmd.Execute() }
