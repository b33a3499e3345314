package gitd

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"slipway/internal/forge"
)

// The two services of git's smart HTTP protocol; see gitprotocol-http(5).
const (
	uploadPack  = "git-upload-pack"  // clone and fetch
	receivePack = "git-receive-pack" // push
)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{owner}/{name}/info/refs", s.infoRefs)
	mux.HandleFunc("POST /{owner}/{name}/"+uploadPack, s.upload)
	mux.HandleFunc("POST /{owner}/{name}/"+receivePack, s.receive)
	return mux
}

// ServeHTTP serves /owner/name.git/..., and the same without .git. Mount it under the path of Options.URL with
// [http.StripPrefix]. It moves the connection's deadlines to Options.Timeout.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.options.Timeout)
	defer cancel()

	// Where the writer cannot do one of these, it doesn't need it either.
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // git may answer before it has read everything
	deadline := time.Now().Add(s.options.Timeout)
	_ = rc.SetReadDeadline(deadline)
	_ = rc.SetWriteDeadline(deadline)
	r = r.WithContext(ctx)
	r.Body = &patient{ReadCloser: r.Body, rc: rc, idle: s.options.Idle, deadline: deadline}
	s.mux.ServeHTTP(w, r)
}

// patient reads a body and waits for each part of it for a while, but no longer.
type patient struct {
	io.ReadCloser
	rc       *http.ResponseController
	idle     time.Duration
	deadline time.Time // of the request
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(p.idle))
	n, err := p.ReadCloser.Read(b)
	// The server goes on reading, to notice when the client leaves, and that must not run into the short deadline.
	if err == nil || errors.Is(err, io.EOF) {
		_ = p.rc.SetReadDeadline(p.deadline)
	}
	return n, err
}

// infoRefs tells what refs there are: the first thing that git asks.
func (s *Server) infoRefs(w http.ResponseWriter, r *http.Request) {
	service := r.URL.Query().Get("service")
	if service != uploadPack && service != receivePack {
		refuse(w, http.StatusForbidden, "This server speaks git's smart HTTP protocol only: use git 1.6.6 or newer.")
		return
	}
	repo, ok := s.admit(w, r, service == receivePack)
	if !ok {
		return
	}
	noCache(w)
	w.Header().Set("Content-Type", "application/x-"+service+"-advertisement")

	cmd := s.git(r.Context(), repo.dir, strings.TrimPrefix(service, "git-"), "--stateless-rpc", "--advertise-refs", ".")
	protocol := ""
	if service == uploadPack {
		protocol = speak(cmd, r)
	}
	var banner string
	if !strings.Contains(protocol, "version=2") {
		line := "# service=" + service + "\n"
		banner = fmt.Sprintf("%04x%s0000", len(line)+4, line)
	}
	s.stream(w, r, cmd, repo, nil, func(out io.Writer, answer io.Reader) error {
		if _, err := io.WriteString(out, banner); err != nil {
			return err
		}
		_, err := io.Copy(out, answer)
		return err
	})
}

// upload answers a clone or a fetch.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.admit(w, r, false)
	if !ok {
		return
	}
	// What a client asks for is a list of hashes; 64 MiB are more than a million.
	body, ok := content(w, r, uploadPack, 64<<20)
	if !ok {
		return
	}
	noCache(w)
	w.Header().Set("Content-Type", "application/x-"+uploadPack+"-result")
	cmd := s.git(r.Context(), repo.dir, "upload-pack", "--stateless-rpc", ".")
	speak(cmd, r)
	s.stream(w, r, cmd, repo, body, func(out io.Writer, answer io.Reader) error {
		_, err := io.Copy(out, answer)
		return err
	})
}

// repository is one that a request was let into.
type repository struct {
	name, dir string
	// user is what who calls is called by themself, by is the name of their token.
	user, by string
}

// admit finds the repository of a request and checks that who calls may read it, or write to it. It has answered if it
// returns false. Git shows the text of a refusal to its user.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, write bool) (repository, bool) {
	name := r.PathValue("owner") + "/" + strings.TrimSuffix(r.PathValue("name"), ".git")
	if err := CheckName(name); err != nil {
		refuse(w, http.StatusNotFound, err.Error())
		return repository{}, false
	}
	user, password, _ := r.BasicAuth()
	verb := "read from"
	if write {
		verb = "push to"
	}
	by, err := s.options.Authorize(r.Context(), name, user, password, write)
	switch {
	case err == nil:
	case errors.Is(err, ErrUnauthorized):
		w.Header().Set("WWW-Authenticate", `Basic realm="Slipway", charset="UTF-8"`)
		refuse(w, http.StatusUnauthorized, fmt.Sprintf("Slipway needs a valid token to %s %s: give any user name, and as password a token with the scope repo:%s.", verb, name, name))
		return repository{}, false
	case errors.Is(err, forge.ErrDenied):
		refuse(w, http.StatusForbidden, fmt.Sprintf("This token may not %s %s: it needs the scope repo:%s.", verb, name, name))
		return repository{}, false
	case errors.Is(err, forge.ErrNotFound):
		refuse(w, http.StatusNotFound, missing(name))
		return repository{}, false
	default:
		s.options.Log.Error("git request not checked", "repo", name, "error", err)
		refuse(w, http.StatusInternalServerError, "Slipway could not check the token; its log says why.")
		return repository{}, false
	}
	dir, err := s.find(name)
	if err != nil {
		refuse(w, http.StatusNotFound, missing(name))
		return repository{}, false
	}
	return repository{name: name, dir: dir, user: user, by: by}, true
}

func missing(name string) string {
	return fmt.Sprintf("There is no repo %s on this server: create it with `slipway repo add %s`.", name, name)
}

// refuse answers with a sentence. Git shows plain text, and nothing else, to its user.
func refuse(w http.ResponseWriter, code int, sentence string) {
	noCache(w)
	http.Error(w, sentence, code)
}

func noCache(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
}

// protocolPattern is what a Git-Protocol header may hold.
var protocolPattern = regexp.MustCompile(`^[a-z0-9=:]{1,64}$`)

// speak passes on the protocol version that the client asks for, and returns what it passed on.
func speak(cmd *exec.Cmd, r *http.Request) string {
	protocol := r.Header.Get("Git-Protocol")
	if !protocolPattern.MatchString(protocol) {
		return ""
	}
	cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	return protocol
}

// errTooLarge is the error of a reader of content past its bound.
var errTooLarge = errors.New("the request is larger than this server takes")

// content returns the body of a request, unpacked and bounded. It has answered if it returns false.
func content(w http.ResponseWriter, r *http.Request, service string, most int64) (io.Reader, bool) {
	if got, want := r.Header.Get("Content-Type"), "application/x-"+service+"-request"; got != want {
		refuse(w, http.StatusUnsupportedMediaType, "The content type must be "+want+".")
		return nil, false
	}
	var body io.Reader = r.Body
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			refuse(w, http.StatusBadRequest, "The request's gzip encoding is broken.")
			return nil, false
		}
		body = unpacked
	default:
		refuse(w, http.StatusUnsupportedMediaType, "The content encoding must be gzip or none.")
		return nil, false
	}
	return &bounded{r: body, left: most}, true
}

// bounded reads at most left bytes, and then fails where [io.LimitReader] would pretend that the input ended.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errTooLarge
	}
	return n, err
}

// stream runs cmd with body as its input while relay copies its answer to the client, and waits for all of it.
// It reports whether the command succeeded and relay did too.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, cmd *exec.Cmd, repo repository, body io.Reader, relay func(out io.Writer, answer io.Reader) error) bool {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return false
	}
	rc := http.NewResponseController(w)
	stderr := &tail{max: 4 << 10}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	var stdin io.WriteCloser
	if err == nil && body != nil {
		stdin, err = cmd.StdinPipe()
		// At the end of its input git puts away what it has taken; on a signal it may leave some behind. If that doesn't end
		// it, it is killed a while later.
		cmd.Cancel = func() error {
			_ = stdin.Close()
			return nil
		}
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.options.Log.Error("git not started", "repo", repo.name, "error", err)
		refuse(w, http.StatusInternalServerError, "Slipway could not run git; its log says why.")
		return false
	}

	fed := make(chan error, 1)
	go func() {
		if stdin != nil {
			_, _ = io.Copy(stdin, body) // git complains itself of what it doesn't get
			_ = stdin.Close()
		}
		// Git may refuse a push before it has read all of it. The client reads the answer when it has sent everything.
		_, err := io.Copy(io.Discard, r.Body)
		fed <- err
	}()

	// A git that fails at once says nothing, and then there is still time for an error status.
	answer := bufio.NewReaderSize(stdout, 64<<10)
	_, silent := answer.Peek(1)
	var relayed error
	if silent == nil || body != nil {
		relayed = relay(flushWriter{w: w, rc: rc, idle: s.options.Idle}, answer)
	}
	_ = stdout.Close() // who writes more finds that nobody listens

	unread := <-fed
	err = cmd.Wait()
	if unread != nil {
		panic(http.ErrAbortHandler) // what else the client sends must not be taken for its next request
	}
	if err != nil && cmd.ProcessState != nil && !cmd.ProcessState.Success() {
		s.options.Log.Warn("git request failed", "repo", repo.name, "error", gitError(cmd.Args[1], err, stderr))
		if silent != nil && body == nil {
			refuse(w, http.StatusInternalServerError, "Slipway's git failed; its log says why.")
		}
		return false
	}
	return relayed == nil
}

// flushWriter sends everything at once, so that progress is seen as it is made, to a client that takes it.
type flushWriter struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
}

func (f flushWriter) Write(p []byte) (int, error) {
	_ = f.rc.SetWriteDeadline(time.Now().Add(f.idle))
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}
