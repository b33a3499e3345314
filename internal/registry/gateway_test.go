package registry_test

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"slipway/internal/testneeds"
)

// gateway is a real object store: the Versity S3 gateway on a folder, with the bucket images. It is reached through a
// proxy, whose address stays when the gateway is killed and started again, and which can be told to fail.
type gateway struct {
	t testing.TB
	*httptest.Server
	dir, socket string
	cmd         *exec.Cmd
	said        bytes.Buffer
	// fails, unless nil, says what the proxy is to answer by itself, with that status; 0 for nothing.
	fails atomic.Pointer[func(*http.Request) int]
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	program := testneeds.Tool(t, "versitygw")
	sockets, err := os.MkdirTemp("", "slipway-s3") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	g := &gateway{t: t, dir: t.TempDir(), socket: filepath.Join(sockets, "s")}
	if err := os.Mkdir(filepath.Join(g.dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.start(program)
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("the object store said: %s", &g.said)
		}
	})
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.socket)
		}, MaxIdleConnsPerHost: 16, DisableCompression: true},
		// Who asks is to find what he finds when the gateway is away: a broken connection.
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fails := g.fails.Load(); fails != nil {
			if status := (*fails)(r); status != 0 {
				w.WriteHeader(status)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

// start starts the gateway, and returns when it answers.
func (g *gateway) start(program string) {
	g.t.Helper()
	_ = os.Remove(g.socket) // of one that was killed
	g.cmd = exec.Command(program, "--port", g.socket, "--access", "a-key", "--secret", "a-secret", "--region", "eu-west-1", "--quiet", "--keep-alive", "posix", g.dir)
	g.cmd.Stderr = &g.said
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", g.socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the object store did not start: %v", err)
		}
	}
}

// kill ends the gateway by SIGKILL.
func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

// restart starts a gateway that was killed.
func (g *gateway) restart() { g.start(g.cmd.Path) }

// fail makes the proxy answer requests with the status that it is told, unless that is 0.
func (g *gateway) fail(status func(*http.Request) int) { g.fails.Store(&status) }
