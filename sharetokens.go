package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
	"github.com/caddy-httphelper/caddy-httphelper/internal/share"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// ShareTokens makes replicas use one token, and a restarted sidecar continue with it: connections whose token
// requests are equal, by value, share a sealed record in a storage. Nothing waits for a storage that fails:
// every replica then gets tokens of its own.
type ShareTokens struct {
	// The storage module. It is provisioned in the background, so that a storage that is down keeps no
	// config from loading; an unknown module, or an option that it does not know, is an error. Default: the
	// storage of this Caddy.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=caddy.storage inline_key=module"`

	// The files with the keys that seal the records: 32 bytes each, in base64 or as 64 hex digits
	// (`openssl rand -base64 32`). The first key seals, all of them open, so that a key can be rotated. They
	// are read again at every attempt to get a token; the last good keys stay in use. Placeholders `{env.*}`
	// are replaced at that time too. Required.
	KeyFiles []string `json:"key_files,omitempty"`

	// The longest wait for one operation of the storage, between 50ms and 5s. All operations before a token
	// request take half of the connection's `token_timeout` at most. Default: 500ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	ctx   caddy.Context
	files []placeholder.Template
	fleet *share.Fleet
}

const (
	minStorageTimeout = 50 * time.Millisecond
	maxStorageTimeout = 5 * time.Second

	makeKeyAdvice = "make a key with: openssl rand -base64 32"
)

// provision checks the options. The storage is not contacted.
func (s *ShareTokens) provision(ctx caddy.Context) error {
	s.ctx = ctx
	err := s.check()
	keys, keysErr := s.readKeys()
	if err := errors.Join(err, keysErr); err != nil {
		return prefixAll("share_tokens", err)
	}
	s.fleet = share.New(share.Options{
		Open:     s.open,
		Keys:     s.readKeys,
		GoodKeys: keys,
		Timeout:  time.Duration(s.Timeout),
		Logger:   ctx.Logger(),
		Count:    telemetry.CountStorage,
	})
	return nil
}

// stop ends the use of the storage, if provision got so far.
func (s *ShareTokens) stop() {
	if s.fleet != nil {
		s.fleet.Stop()
	}
}

// storageDegraded says whether the running config's storage of shared tokens fails, and whether there is one.
func storageDegraded() (degraded, shares bool) {
	s := activeApp().ShareTokens
	if s == nil {
		return false, false
	}
	state, _ := s.fleet.State()
	return state == adminapi.SharedDegraded, true
}

// check checks what needs neither the environment nor the files of the place where the config will run.
func (s *ShareTokens) check() error {
	return errors.Join(s.checkTimeout(), s.checkStorage(), s.parseKeys())
}

func (s *ShareTokens) checkTimeout() error {
	if t := time.Duration(s.Timeout); t != 0 && (t < minStorageTimeout || t > maxStorageTimeout) {
		return fmt.Errorf("timeout: must be between %v and %v", minStorageTimeout, maxStorageTimeout)
	}
	return nil
}

// parseKeys checks the names of the key files.
func (s *ShareTokens) parseKeys() error {
	if len(s.KeyFiles) == 0 {
		return errors.New("key_file is missing; " + makeKeyAdvice)
	}
	errs := make([]error, len(s.KeyFiles))
	files := make([]placeholder.Template, len(s.KeyFiles))
	for i, path := range s.KeyFiles {
		files[i], errs[i] = placeholder.Parse(path)
		if errs[i] != nil {
			errs[i] = fmt.Errorf("key_file: %w", errs[i])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.files = files
	return nil
}

// unreadable returns why key files are not usable here, once check has been called.
func (s *ShareTokens) unreadable() error {
	_, err := s.readKeys()
	return err
}

// readKeys reads the keys as they are now.
func (s *ShareTokens) readKeys() ([][]byte, error) {
	keys, errs := make([][]byte, len(s.files)), make([]error, len(s.files))
	for i, file := range s.files {
		keys[i], errs[i] = readKey(&file)
		if errs[i] != nil {
			errs[i] = fmt.Errorf("key_file: %w", errs[i])
		}
	}
	return keys, errors.Join(errs...)
}

// readKey reads a key. An error names the file.
func readKey(file *placeholder.Template) ([]byte, error) {
	path, err := file.Expand(nil)
	if err != nil {
		return nil, err
	}
	text, err := placeholder.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, makeKeyAdvice)
	}
	key, err := share.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// module returns the ID of the storage module and its options.
func (s *ShareTokens) module() (id string, options json.RawMessage, err error) {
	var all map[string]json.RawMessage
	var name string
	if err := json.Unmarshal(s.StorageRaw, &all); err != nil {
		return "", nil, errors.New("storage: must be an object")
	}
	if err := json.Unmarshal(all["module"], &name); err != nil || name == "" {
		return "", nil, errors.New("storage: the name of a module is missing")
	}
	delete(all, "module")
	options, err = json.Marshal(all)
	return storageNamespace + name, options, err
}

const storageNamespace = "caddy.storage."

// checkStorage checks what can be known without the storage.
func (s *ShareTokens) checkStorage() error {
	if s.StorageRaw == nil {
		return nil
	}
	id, options, err := s.module()
	if err != nil {
		return err
	}
	info, err := caddy.GetModule(id)
	if err != nil {
		return errors.New("storage: " + noStorageModule)
	}
	module := info.New()
	if _, ok := module.(caddy.StorageConverter); !ok {
		return errors.New("storage: this module is no storage")
	}
	if err := caddy.StrictUnmarshalJSON(options, module); err != nil {
		return fmt.Errorf("storage: %v", err)
	}
	return nil
}

const noStorageModule = "this Caddy has no storage module of this name; build it in, for example with WITH=github.com/pberkel/caddy-storage-redis ./xcaddy.sh"

// open provisions the storage module in a context of its own. Closing it cleans the module up.
func (s *ShareTokens) open(ctx context.Context) (share.Storage, func(), error) {
	if s.StorageRaw == nil {
		return storage{s.ctx.Storage()}, nil, nil
	}
	id, options, err := s.module()
	if err != nil {
		return nil, nil, err
	}
	parent := s.ctx
	parent.Context = ctx
	own, cancel := caddy.NewContext(parent)
	module, err := own.LoadModuleByID(id, options)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	opened, err := module.(caddy.StorageConverter).CertMagicStorage()
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return storage{opened}, cancel, nil
}

// storage is a storage of Caddy with the times at which its records were written.
type storage struct{ certmagic.Storage }

// Modified returns when a record was written.
func (s storage) Modified(ctx context.Context, key string) (time.Time, error) {
	info, err := s.Stat(ctx, key)
	return info.Modified, err
}

// Slot returns the place of a token identity in the storage, or nil.
func (s *ShareTokens) Slot(identity []byte) token.Slot {
	if slot := s.fleet.Slot(identity); slot != nil {
		return slot
	}
	return nil
}

// shareOptions are the subdirectives of share_tokens.
var shareOptions = subdirective.Options[ShareTokens]{
	"storage":  {Read: shareStorage, Block: true},
	"key_file": {Read: shareKeyFile, Repeatable: true},
	"timeout":  subdirective.DurationOption(func(s *ShareTokens) *caddy.Duration { return &s.Timeout }),
}

func shareKeyFile(s *subdirective.Subdirective, c *ShareTokens) error {
	path, err := s.OneArg()
	if err != nil {
		return err
	}
	c.KeyFiles = append(c.KeyFiles, path)
	return nil
}

// shareStorage lets the module read its options.
func shareStorage(s *subdirective.Subdirective, c *ShareTokens) error {
	if len(s.Args) == 0 {
		return s.Errorf("takes the name of a storage module")
	}
	name := s.Args[0]
	info, err := caddy.GetModule(storageNamespace + name)
	if err != nil {
		return s.Errorf("%s", noStorageModule)
	}
	module, ok := info.New().(caddyfile.Unmarshaler)
	if !ok {
		return s.Errorf("this module can be configured in JSON only")
	}
	if err := module.UnmarshalCaddyfile(caddyfile.NewDispenser(s.Segment[1:])); err != nil {
		if quotesValue(err.Error(), s.Segment[2:]) {
			return s.Errorf("the module %s does not understand its options; a value with spaces needs quotation marks", name)
		}
		return s.Wrap(err)
	}
	c.StorageRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

// quotesValue reports whether a module's error quotes what may be a secret: anything that stands in its block
// and is no plausible name of an option at the beginning of a line.
func quotesValue(text string, block caddyfile.Segment) bool {
	text, _, _ = strings.Cut(text, ", at ") // the place, which is no value
	line := 0
	for _, token := range block {
		first := token.Line != line
		line = token.Line
		if token.Text == "{" || token.Text == "}" || first && redact.PlausibleName(token.Text) {
			continue
		}
		if strings.Contains(text, token.Text) {
			return true
		}
	}
	return false
}

// Interface guards
var _ token.Shared = (*ShareTokens)(nil)
