// Command gooauth2 is a token endpoint made of go-oauth2, a server that does not decode id and
// secret inside the Basic header. It listens on the unix socket -socket and knows one client.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"

	"github.com/go-oauth2/oauth2/v4"
	"github.com/go-oauth2/oauth2/v4/manage"
	"github.com/go-oauth2/oauth2/v4/models"
	"github.com/go-oauth2/oauth2/v4/server"
	"github.com/go-oauth2/oauth2/v4/store"
)

func main() {
	socket := flag.String("socket", "", "path of the unix socket to listen on")
	id := flag.String("id", "", "client id")
	secret := flag.String("secret", "", "client secret")
	flag.Parse()

	endpoint, err := tokenEndpoint(*id, *secret)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /token", endpoint)
	log.Fatal(http.Serve(listener, mux)) //nolint:gosec // G114: serves tests on a socket of their own
}

func tokenEndpoint(id, secret string) (http.Handler, error) {
	clients := store.NewClientStore()
	if err := clients.Set(id, &models.Client{ID: id, Secret: secret}); err != nil {
		return nil, err
	}
	manager := manage.NewDefaultManager()
	manager.MustTokenStorage(store.NewMemoryTokenStore())
	manager.MapClientStorage(clients)

	srv := server.NewDefaultServer(manager)
	srv.SetAllowedGrantType(oauth2.ClientCredentials)
	srv.SetClientInfoHandler(server.ClientBasicHandler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := srv.HandleTokenRequest(w, r); err != nil {
			log.Print(err)
		}
	}), nil
}
