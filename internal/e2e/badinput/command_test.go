package badinput_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandLine types wrong things at a server that runs no jobs.
func TestCommandLine(t *testing.T) {
	s := start(t, "--no-runner")
	s.must(t, "", "repo", "add", "ada/engine")
	other := strings.TrimSpace(s.must(t, "", "token", "create", "other", "--scope", "repo:ada/loom"))
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"a": 1}`))
	}))
	defer stranger.Close()
	for _, test := range []struct {
		line, stdin string
		code        int
		says        string
	}{
		{"repoo list", "", 1, `slipway has no command "repoo"; did you mean repo?`},
		{"run lst", "", 1, `slipway run has no command "lst"; did you mean`},
		{"run show ada/engine", "", 1, "write: slipway run show OWNER/NAME NUMBER"},
		{"run show ada/engine x", "", 1, `"x" is not the number of a run`},
		{"run show ada/engine 9", "", 4, "ada/engine has no run 9"},
		{"run show ada/none 1", "", 4, `there is no repo "ada/none", or your token does not allow to see it`},
		{"run show ../x 1", "", 4, "check the address of the server and the name of the repo"},
		{"run list --limit abc", "", 1, `--limit cannot be "abc"`},
		{"run list --limit -1", "", 1, "--limit is from 1 to 500, not -1"},
		{"run list --bogus", "", 1, "unknown flag: --bogus; slipway run list --help lists the flags"},
		{"run list --server ::bad", "", 1, `the server "::bad" is no URL`},
		{"run list --server http://127.0.0.1:1", "", 6, "no Slipway server answers at http://127.0.0.1:1 (connection refused)"},
		{"run list --server " + stranger.URL, "", 6, "is no Slipway server of this version"},
		{"run list --token nonsense", "", 3, "the token is not known here"},
		{"run list --token a\nb", "", 1, "the token has characters that no token has"},
		{"token list --token " + other, "", 3, `the token "other" is no admin's`},
		{"secret list ada/engine --token " + other, "", 3, "it needs the scope repo:ada/engine or admin"},
		{"repo add ada", "", 1, `"ada" cannot be the name of a repo`},
		{"repo add ../engine", "", 1, `"../engine" cannot be the name of a repo`},
		{"repo add Ada/Engine", "", 1, `"Ada/Engine" is no name for a repo`},
		{"repo add ada/x --forge github", "", 1, `expected value to be one of "slipway, gitea"`},
		{"repo remove ada/none", "", 4, `there is no repo "ada/none"`},
		{"secret set ada/engine x", "", 1, "the value is empty"},
		{"secret set ada/engine 1x", "v", 1, `"1x" cannot be the name of a secret`},
		{"secret set ada/engine x", strings.Repeat("v", 70_000), 1, "at most 65536 are allowed"},
		{"token create x --scope bogus", "", 1, `"bogus" is no scope`},
		{"token create x --scope admin --expires-in -5h", "", 1, "is not in the future; give a time such as 720h"},
		{"token remove 99", "", 4, "there is no token 99"},
		{"lint /nonexistent", "", 4, "the pipeline file /nonexistent cannot be opened: no such file or directory"},
		{"lint /", "", 1, "the pipeline file / cannot be read: is a directory"},
	} {
		t.Run(test.line, func(t *testing.T) {
			r := run(t, s.env(), test.stdin, strings.Split(test.line, " ")...)
			if r.code != test.code {
				t.Errorf("exit code %d, want %d", r.code, test.code)
			}
			checkSentence(t, r.err, test.says)
			if strings.Contains(r.err, s.token) {
				t.Error("it shows the token")
			}
		})
	}
}

// TestWebhooks sends webhooks that prove nothing: their answer does not tell whether the repo exists.
func TestWebhooks(t *testing.T) {
	s := start(t, "--no-runner")
	s.must(t, "", "repo", "add", "ada/engine")
	answer := func(repo, signature string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.host+"/hooks/"+repo, strings.NewReader(`{"ref": "refs/heads/main"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Gitea-Event", "push")
		req.Header.Set("X-Gitea-Signature", signature)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text := make([]byte, 1000)
		n, _ := resp.Body.Read(text) // an answer is one packet
		return resp.Status + ": " + string(text[:n])
	}
	for _, signature := range []string{"", "00", strings.Repeat("ab", 32)} {
		known, unknown := answer("ada/engine", signature), answer("ada/none", signature)
		if known != unknown || !strings.HasPrefix(known, "401 ") {
			t.Errorf("signature %q: %q to a repo that exists, %q to one that does not", signature, known, unknown)
		}
	}
}

// TestStart starts servers and runners that cannot.
func TestStart(t *testing.T) {
	s := start(t, "--no-runner")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("file", "x")
	nonsense := write("nonsense", "nonsense\n")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	server := "server --no-runner --listen 127.0.0.1:0 --data " + filepath.Join(dir, "data")
	runner := "runner --engine host --data " + filepath.Join(dir, "runner") + " --server http://" + s.host
	for _, test := range []struct {
		line string
		code int
		says string
	}{
		{"server --no-runner --listen 127.0.0.1:0 --data " + s.data(), 5, "another slipway server uses " + s.data() + ": it is locked by process"},
		{"server --no-runner --listen " + s.host + " --data " + filepath.Join(dir, "data"), 5, "cannot listen on " + s.host + ": address already in use"},
		{"server --no-runner --listen 127.0.0.1:0 --data " + file, 1, "the data folder " + file + " cannot be made: not a directory"},
		{server + " --url nope", 1, `--url "nope" is not the root of a server`},
		{server + " --timeout -5s", 1, "--timeout is more than 0"},
		{server + " --database /nonexistent/x.db", 6, "database /nonexistent/x.db: its folder does not exist"},
		{server + " --database mysql://x", 6, `there is no database of the kind "mysql"`},
		{server + " --database postgres://u:hidden@127.0.0.1:1/x", 6, "the server cannot be reached; check that it runs"},
		{server + " --database postgres://u:hidden@" + silent.Addr().String() + "/x?connect_timeout=1", 6, "the server cannot be reached; check that it runs"},
		{"server --listen 127.0.0.1:0 --engine bogus --data " + filepath.Join(dir, "data"), 1, `there is no engine "bogus"`},
		{runner, 1, "a runner needs a token"},
		{runner + " --token-file /nonexistent", 1, "the runner's token in /nonexistent cannot be read: no such file or directory"},
		{runner + " --token-file " + nonsense, 3, "the token is not known here"},
		{runner + " --token-file " + filepath.Join(s.data(), "pull-token"), 3, `the token "own cluster" is not a runner's`},
		{runner + " --capacity -1", 1, "--capacity is at least 1"},
		{"runner --server bogus", 1, `--server "bogus" is not the root of a server`},
		{runner + " --mirror x", 1, `--mirror "x" is not HOST=URL`},
	} {
		t.Run(test.line, func(t *testing.T) {
			r := run(t, nil, "", strings.Split(test.line, " ")...)
			if r.code != test.code {
				t.Errorf("exit code %d, want %d", r.code, test.code)
			}
			// Before it fails, a server may log what it did first.
			lines := strings.Split(strings.TrimSpace(r.err), "\n")
			checkSentence(t, lines[len(lines)-1], test.says)
			if strings.Contains(r.err, "hidden") {
				t.Errorf("it shows the password: %s", r.err)
			}
		})
	}
}

// TestLostKey starts a server whose key is gone: it must not make do with a new one.
func TestLostKey(t *testing.T) {
	s := start(t, "--no-runner")
	s.must(t, "", "repo", "add", "ada/engine")
	s.must(t, "value", "secret", "set", "ada/engine", "x")
	s.stop()
	if err := os.Remove(filepath.Join(s.data(), "secret.key")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, the new key is there
		r := run(t, nil, "", "server", "--no-runner", "--listen", "127.0.0.1:0", "--data", s.data())
		if r.code != 1 {
			t.Errorf("exit code %d", r.code)
		}
		checkSentence(t, r.err, "the secrets of ada/engine were sealed with another key; restore the file secret.key")
	}
}

// TestFullOutput writes to a full disk: what was asked for is not there, and that is no success.
func TestFullOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full")
	}
	defer full.Close()
	for _, line := range []string{"--help", "plan -", "lint --help"} {
		code, text := runTo(t, full, "kind: pipeline\nname: a\nsteps: [{name: s, image: i}]\n", strings.Split(line, " ")...)
		if code == 0 {
			t.Errorf("slipway %s: exit code 0", line)
		}
		checkSentence(t, text, "cannot write the output: no space left on device")
	}
}
