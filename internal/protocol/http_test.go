package protocol_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
)

func everybody(*http.Request) error { return nil }

// What the client gets is what the server says.
func TestClient(t *testing.T) {
	s := flowtest.New(t)
	server := httptest.NewServer(protocol.Handler(s.Flow, func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer good" {
			return fault.New(fault.Unauthorized, "who are you")
		}
		return nil
	}))
	defer server.Close()
	c := &protocol.Client{URL: server.URL + "/", Token: "good", HTTP: server.Client()}
	s.Push("kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n")
	claim := protocol.Claim{Lease: rand.Text(), Runner: "rosie", OS: "linux", Arch: "amd64"}
	a, err := c.Claim(t.Context(), claim)
	if err != nil || a.Repo != flowtest.Repo || a.Clone.Password != "forge-token-of-ada" || !slices.Equal(a.Mirrors, []string{"docker.io"}) {
		t.Fatalf("Claim: %+v, %v", a, err)
	}
	if again, err := c.Resume(t.Context(), claim.Lease); err != nil || again.JobID != a.JobID {
		t.Errorf("Resume: %+v, %v", again, err)
	}
	if r, err := c.Renew(t.Context(), claim.Lease); err != nil || r.Until.IsZero() {
		t.Errorf("Renew: %+v, %v", r, err)
	}
	if err := c.Append(t.Context(), claim.Lease, []protocol.Event{{Seq: 1, Start: &protocol.StepStart{Step: 9}}}); fault.Of(err).Code != fault.Invalid {
		t.Errorf("a wrong Append: %v", err)
	}
	if err := c.Finish(t.Context(), claim.Lease, protocol.Outcome{Status: ci.Success}); err != nil {
		t.Error(err)
	}
	if err := c.Finish(t.Context(), claim.Lease, protocol.Outcome{Status: ci.Success}); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("Finish again: %v", err)
	}
	c.Token = "wrong"
	if _, err := c.Renew(t.Context(), claim.Lease); fault.Of(err).Code != fault.Unauthorized {
		t.Errorf("with a wrong token: %v", err)
	}
}

// Whatever answers in the server's place, the runner asks again: it must not lose its job by a proxy's error page.
func TestStrangersAnswer(t *testing.T) {
	for _, status := range []int{200, 302, 401, 403, 404, 410, 429, 500, 502, 503} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("<html>please wait</html>"))
		}))
		c := &protocol.Client{URL: server.URL, HTTP: server.Client()}
		_, err := c.Renew(t.Context(), "lease")
		if f := fault.Of(err); f == nil || f.Code != fault.Unavailable {
			t.Errorf("%d: %v", status, err)
		}
		server.Close()
	}
	c := &protocol.Client{URL: "http://127.0.0.1:1", HTTP: http.DefaultClient}
	if _, err := c.Renew(t.Context(), "lease"); fault.Of(err).Code != fault.Unavailable {
		t.Errorf("nobody: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	body := `{"lease": "` + strings.Repeat("x", protocol.MaxBody) + `"}`
	w := httptest.NewRecorder()
	protocol.Handler(flowtest.New(t).Flow, everybody).ServeHTTP(w, httptest.NewRequest("POST", protocol.PathPrefix+"append", strings.NewReader(body)))
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func FuzzHandler(f *testing.F) {
	s := flowtest.New(f)
	run := s.Push("kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n")
	lease := rand.Text()
	if _, err := s.Claim(f.Context(), protocol.Claim{Lease: lease, OS: "linux", Arch: "amd64"}); err != nil {
		f.Fatal(err)
	}
	handler := protocol.Handler(s.Flow, everybody)
	f.Add("append", []byte(`{"events":[{"seq":1,"start":{"step":1}},{"seq":2,"log":{"step":1,"offset":0,"data":"aGk="}},{"seq":3,"end":{"step":1,"status":"success"}}]}`))
	f.Add("append", []byte(`{"events":[{"seq":-1,"image":{"step":1,"ref":"a","digest":"b"}}]}`))
	f.Add("renew", []byte(`{}`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if path != "append" && path != "renew" && path != "resume" {
			return
		}
		body = bytes.Replace(body, []byte("{"), []byte(`{"lease":"`+lease+`",`), 1)
		r, err := http.NewRequestWithContext(context.Background(), "POST", protocol.PathPrefix+path, bytes.NewReader(body))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %q: %s", path, body, w.Body)
		}
		if got, err := s.FindRun(context.Background(), run.Repo, run.Number); err != nil || got.Status != ci.Running {
			t.Fatalf("%s %q ended the run: %+v, %v", path, body, got, err)
		}
	})
}
