package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// grpcAPI is a gRPC service that is protected like the API.
type grpcAPI struct {
	testpb.UnimplementedTestServiceServer
	valid func(token string) bool
	addr  string

	mu   sync.Mutex
	seen []string // values of authorization
}

// startGRPC serves gRPC until the test ends; with a CA over TLS.
func startGRPC(t *testing.T, ca *harness.CA, tokens *harness.TokenEndpoint) *grpcAPI {
	t.Helper()
	api := &grpcAPI{valid: tokens.Valid}
	var options []grpc.ServerOption
	if ca != nil {
		config := ca.ServerConfig()
		config.ClientAuth = tls.NoClientCert
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	server := grpc.NewServer(options...)
	testpb.RegisterTestServiceServer(server, api)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api.addr = listener.Addr().String()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return api
}

func (a *grpcAPI) authorize(ctx context.Context) error {
	incoming, _ := metadata.FromIncomingContext(ctx)
	authorization := strings.Join(incoming.Get("authorization"), "|")
	a.mu.Lock()
	a.seen = append(a.seen, authorization)
	a.mu.Unlock()
	if !a.valid(strings.TrimPrefix(authorization, "Bearer ")) {
		return status.Error(codes.Unauthenticated, "no good token")
	}
	return nil
}

// UnaryCall echoes the payload and sends metadata of both kinds.
func (a *grpcAPI) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if err := a.authorize(ctx); err != nil {
		return nil, err
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", "head"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-tail", "tail"))
	if in.GetFillUsername() {
		return nil, status.Error(codes.FailedPrecondition, "not today")
	}
	return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
}

// FullDuplexCall responds to each message before it waits for the next.
func (a *grpcAPI) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	if err := a.authorize(stream.Context()); err != nil {
		return err
	}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			stream.SetTrailer(metadata.Pairs("x-tail", "tail"))
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// startGRPCWorld is a world whose API speaks gRPC, over cleartext HTTP/2 or TLS.
func startGRPCWorld(t *testing.T, ca *harness.CA, lines ...string) (*world, *grpcAPI, testpb.TestServiceClient) {
	t.Helper()
	w := newWorld(t, nil)
	api := startGRPC(t, ca, w.tokens)
	w.api.URL = "http://" + api.addr
	transport := "transport http {\nversions h2c\n}"
	if ca != nil {
		w.api.URL = "https://" + api.addr
		transport = "transport http {\ntls_trust_pool file " + ca.File + "\n}"
	}
	w.Run(t, w.inline(options{directive: transport + "\n" + strings.Join(lines, "\n"), global: "servers {\nprotocols h1 h2c\n}"}))
	return w, api, dialGRPC(t, w.Addr)
}

// dialGRPC returns a client of the service at an address in the clear.
func dialGRPC(t *testing.T, addr string) testpb.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return testpb.NewTestServiceClient(conn)
}

// TestQuietStreamEndsWithCaddysTimeout shows what docs/examples.md says of read_body_idle: it decides when a stream ends
// on which the app is silent.
func TestQuietStreamEndsWithCaddysTimeout(t *testing.T) {
	w := newWorld(t, nil)
	api := startGRPC(t, nil, w.tokens)
	w.api.URL = "http://" + api.addr
	w.Run(t, w.inline(options{directive: "transport http {\nversions h2c\n}", global: "servers {\nprotocols h1 h2c\ntimeouts {\nread_body_idle 300ms\n}\n}"}))
	stream, err := dialGRPC(t, w.Addr).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v, want an error", err)
	} else {
		t.Log(err)
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	for name, ca := range map[string]*harness.CA{"h2c": nil, "TLS": harness.NewCA(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, api, client := startGRPCWorld(t, ca)
			ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
			defer cancel()

			var header, trailer metadata.MD
			payload := &testpb.Payload{Body: randomBody(300_000)}
			// The app's own authorization must not come through.
			response, err := client.UnaryCall(metadata.AppendToOutgoingContext(ctx, "authorization", "Basic mine"),
				&testpb.SimpleRequest{Payload: payload}, grpc.Header(&header), grpc.Trailer(&trailer))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "payload", string(response.GetPayload().GetBody()), string(payload.GetBody()))
			equal(t, "header", strings.Join(header.Get("x-head"), "|"), "head")
			equal(t, "trailer", strings.Join(trailer.Get("x-tail"), "|"), "tail")

			_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{FillUsername: true})
			equal(t, "code", status.Code(err), codes.FailedPrecondition)
			equal(t, "message", status.Convert(err).Message(), "not today")

			stream, err := client.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				sent := []byte{byte(i)}
				if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: sent}}); err != nil {
					t.Fatal(err)
				}
				got, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "message", string(got.GetPayload().GetBody()), string(sent))
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Fatalf("at the end of the stream: %v", err)
			}
			equal(t, "trailer", strings.Join(stream.Trailer().Get("x-tail"), "|"), "tail")
			for _, authorization := range api.seen {
				equal(t, "authorization", authorization, "Bearer token-1")
			}
		})
	}
}

// TestAGRPCCallIsReplayedWhenItsTokenIsRejected: gRPC says UNAUTHENTICATED with an HTTP status of 200.
func TestAGRPCCallIsReplayedWhenItsTokenIsRejected(t *testing.T) {
	t.Parallel()
	w, _, client := startGRPCWorld(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	defer cancel()
	call := func() {
		t.Helper()
		if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("hello")}}); err != nil {
			t.Fatal(err)
		}
	}
	call()
	w.tokens.Revoke()
	call()
	equal(t, "token requests", w.tokens.Count(), 2)
	if _, metrics, err := w.Admin(http.MethodGet, "/metrics", "", ""); err != nil || !strings.Contains(metrics, `unauthorized_total{connection="127.0.0.1",outcome="replayed"} 1`) {
		t.Errorf("metrics: %v\n%s", err, metrics)
	}
}

// TestGRPCErrorsOfTheSidecar has each error that gRPC callers get as a gRPC status (rule 21).
func TestGRPCErrorsOfTheSidecar(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		response http.Handler
		code     codes.Code
		header   string // of the app's
		option   string
	}{
		"outage":        {harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"), codes.Unavailable, "", ""},
		"no response":   {harness.Slow(harness.Timeout, harness.Status(http.StatusOK)), codes.DeadlineExceeded, "", "token_timeout 500ms"},
		"configuration": {harness.Refuse(http.StatusUnauthorized, "invalid_client"), codes.FailedPrecondition, "", ""},
		"app's token":   {harness.Refuse(http.StatusUnauthorized, "invalid_client"), codes.InvalidArgument, "Basic mine", "app_authorization reject"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, api, client := startGRPCWorld(t, nil, c.option)
			w.tokens.RespondWith(c.response)
			ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
			defer cancel()
			if c.header != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.header)
			}
			_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
			equal(t, "code", status.Code(err), c.code)
			equal(t, "calls", len(api.seen), 0)
		})
	}
}
