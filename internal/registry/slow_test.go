package registry_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/registry"
)

// TestSlowClients lets go of clients that neither send nor read on, whoever they are.
func TestSlowClients(t *testing.T) {
	s := newSite(t)
	s.pushBlob("a", []byte("{}"))
	large := encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", []byte("{}")),
		"layers": []object{}, "annotations": object{"x": strings.Repeat("x", 128<<10)},
	})
	s.want(s.putManifest("a", "large", large), 201)
	s.Close()
	// From here on it is impatient. What was pushed before could take its time.
	impatient, err := registry.New(registry.Options{
		Dir: s.dir, Store: s.store, Authority: testPeople, Key: make([]byte, 32), StallTime: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.serve(impatient)
	server := httptest.NewUnstartedServer(s.handler)
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10) // so that the kernel takes no whole answer
		return ctx
	}
	server.Start()
	defer server.Close()
	defer server.CloseClientConnections()
	for what, request := range map[string]string{
		"a login":                      "POST /v2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant_type=",
		"a body that nobody asked for": "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"a manifest":                   "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-password\r\nContent-Length: 100\r\n\r\n{",
		"an answer that nobody takes":  "GET /v2/a/manifests/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-password\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, request)
		if what == "an answer that nobody takes" {
			s.waitAnswered()
		}
		n, err := io.Copy(io.Discard, conn)
		if what == "an answer that nobody takes" {
			if err == nil && n >= int64(len(large)) {
				t.Errorf("%s: all of it came", what)
			}
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		conn.Close()
	}
}

// TestManyRanges answers a request for many ranges with everything, which costs less.
func TestManyRanges(t *testing.T) {
	s := newSite(t)
	digest := s.pushBlob("a", []byte("hello world"))
	a := s.want(s.do("GET", "/v2/a/blobs/"+digest, nil, "Range: bytes=0-0,2-3"), 200)
	if string(a.body) != "hello world" {
		t.Errorf("got %s", a.body)
	}
	s.want(s.do("GET", "/v2/a/blobs/"+digest, nil, "Range: bytes=0-3"), 206)
}

// waitAnswered waits until a manifest has been answered, well or badly.
func (s *site) waitAnswered() {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		families, err := s.handler.Metrics(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, f := range families {
			if f.Name != "slipway_registry_requests_total" {
				continue
			}
			for _, sample := range f.Samples {
				if slices.Equal(sample.Labels, []string{"route", "manifests", "method", "GET", "code", "200"}) {
					return
				}
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatal("a request is being answered for ever")
		}
	}
}
