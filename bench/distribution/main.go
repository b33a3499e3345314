// Command distribution measures Slipway's registry beside the distribution registry, which this module builds, and a
// plain static file server, all on one machine in one run. bench/registry.sh calls it.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	repository = "octo/app"
	workers    = 4
	large      = 200 << 20
	manyTags   = 10000
)

// registry is a server under test.
type registry struct {
	name, url, token string
	process          *os.Process
}

func main() {
	slipway := flag.String("slipway", "bin/slipway", "program of Slipway")
	peer := flag.String("distribution", "bin/distribution", "program of the distribution registry")
	span := flag.Duration("span", 4*time.Second, "how long each rate is measured, in each of three turns")
	flag.Parse()
	if err := run(*slipway, *peer, *span); err != nil {
		log.Fatal(err)
	}
}

func run(slipway, peer string, span time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "registry-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ours, err := startSlipway(slipway, filepath.Join(dir, "slipway"))
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := startPeer(peer, filepath.Join(dir, "distribution"))
	if err != nil {
		return err
	}
	defer theirs.stop()

	// What is to be beaten or met takes turns with what is measured.
	type result struct{ push, pull, up, down, tags float64 }
	best := map[string]result{}
	both := []*registry{ours, theirs}
	content := make([]byte, large)
	rand.Read(content)
	plain := filepath.Join(dir, "plain")
	if err := os.MkdirAll(plain, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	static := &http.Server{Handler: http.FileServer(http.Dir(plain)), ReadHeaderTimeout: time.Minute}
	go static.Serve(l) //nolint:errcheck // it ends with the process
	for _, r := range both {
		if err := r.makeTags(); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for range 3 {
		start := time.Now()
		if err := writeFile(filepath.Join(plain, "blob"), content); err != nil {
			return err
		}
		file := best["plain file"]
		file.up = max(file.up, large/1e6/time.Since(start).Seconds())
		start = time.Now()
		if _, err := fetch("http://"+l.Addr().String()+"/blob", ""); err != nil {
			return err
		}
		file.down = max(file.down, large/1e6/time.Since(start).Seconds())
		best["plain file"] = file
		for _, r := range both {
			got := best[r.name]
			push, err := rate(span, func() error { return r.push(random(10_000), "t") })
			if err != nil {
				return fmt.Errorf("%s: push: %w", r.name, err)
			}
			layer := random(1 << 20)
			if err := r.push(layer, "one"); err != nil {
				return err
			}
			pull, err := rate(span, func() error { return r.pull(layer, "one") })
			if err != nil {
				return fmt.Errorf("%s: pull: %w", r.name, err)
			}
			content[0]++ // not the blob of the turn before
			start := time.Now()
			if err := r.putBlob(content); err != nil {
				return fmt.Errorf("%s: 200 MB up: %w", r.name, err)
			}
			up := time.Since(start)
			start = time.Now()
			if _, err := fetch(r.url+"/v2/"+repository+"/blobs/"+digest(content), r.token); err != nil {
				return fmt.Errorf("%s: 200 MB down: %w", r.name, err)
			}
			down := time.Since(start)
			start = time.Now()
			if err := r.listTags(); err != nil {
				return fmt.Errorf("%s: tags: %w", r.name, err)
			}
			best[r.name] = result{
				max(got.push, push), max(got.pull, pull), max(got.up, large/1e6/up.Seconds()), max(got.down, large/1e6/down.Seconds()),
				max(got.tags, 1/time.Since(start).Seconds()),
			}
		}
	}
	a, b, p := best[ours.name], best[theirs.name], best["plain file"]
	fmt.Println("| the best of three turns | Slipway | distribution | ratio | plain file |")
	fmt.Println("|---|---|---|---|---|")
	fmt.Printf("| small pushes (10 kB), a second | %.0f | %.0f | %.1f | |\n", a.push, b.push, a.push/b.push)
	fmt.Printf("| pulls of 1 MB, a second | %.0f | %.0f | %.1f | |\n", a.pull, b.pull, a.pull/b.pull)
	fmt.Printf("| 200 MB up, MB/s | %.0f | %.0f | %.1f | %.0f |\n", a.up, b.up, a.up/b.up, p.up)
	fmt.Printf("| 200 MB down, MB/s | %.0f | %.0f | %.1f | %.0f |\n", a.down, b.down, a.down/b.down, p.down)
	fmt.Printf("| 10,000 tags in pages of 1,000, ms | %.0f | %.0f | %.1f | |\n", 1e3/a.tags, 1e3/b.tags, a.tags/b.tags)
	fmt.Printf("| most memory (RSS) of the server, MB | %s | %s | | |\n", ours.memory(), theirs.memory())
	return nil
}

func startSlipway(program, data string) (*registry, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &registry{name: "slipway", url: "http://" + address}
	if err := r.start(exec.Command(program, "server", "--data", data, "--listen", address, "--no-runner")); err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(data, "admin-token"))
	r.token = strings.TrimSpace(string(token))
	return r, err
}

func startPeer(program, data string) (*registry, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	// Its defaults, but for the noise.
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", data, address)
	file := filepath.Join(data, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "serve", file)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r := &registry{name: "distribution", url: "http://" + address}
	return r, r.start(cmd)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts the server and waits until it answers.
func (r *registry) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	r.process = cmd.Process
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		resp, err := http.Get(r.url + "/v2/")
		if err == nil {
			return resp.Body.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not answer", r.name)
}

func (r *registry) stop() {
	_ = r.process.Kill()
	_, _ = r.process.Wait()
}

// memory is the most that the server had in memory.
func (r *registry) memory() string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.process.Pid))
	if err != nil {
		return "?"
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return "?"
	}
	return fmt.Sprint(kilobytes / 1000)
}

// rate calls do from several goroutines for a while, and returns how often a second it succeeded.
func rate(span time.Duration, do func() error) (float64, error) {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	n := 0
	start := time.Now()
	for range workers {
		group.Go(func() {
			for time.Since(start) < span {
				err := do()
				mu.Lock()
				n++
				failed = errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return float64(n) / time.Since(start).Seconds(), failed
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// client keeps as many connections as there are workers.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}

func (r *registry) send(method, address, contentType string, body []byte, want int) (*http.Response, error) {
	req, err := http.NewRequest(method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	if r.token != "" {
		req.SetBasicAuth("bench", r.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %s", method, address, resp.Status, text)
	}
	return resp, errors.Join(err, resp.Body.Close())
}

// putBlob uploads as clients do: POST for a place, PUT of all bytes.
func (r *registry) putBlob(content []byte) error {
	resp, err := r.send("POST", r.url+"/v2/"+repository+"/blobs/uploads/", "application/octet-stream", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	place, err := resp.Location()
	if err != nil {
		return err
	}
	query := place.Query()
	query.Set("digest", digest(content))
	place.RawQuery = query.Encode()
	_, err = r.send("PUT", place.String(), "application/octet-stream", content, http.StatusCreated)
	return err
}

const mediaImage = "application/vnd.oci.image.manifest.v1+json"

func manifest(layer []byte) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, mediaImage, digest([]byte("{}")), digest(layer), len(layer))
}

// push pushes an image of a config and a layer.
func (r *registry) push(layer []byte, tag string) error {
	if err := errors.Join(r.putBlob([]byte("{}")), r.putBlob(layer)); err != nil {
		return err
	}
	_, err := r.send("PUT", r.url+"/v2/"+repository+"/manifests/"+tag, mediaImage, manifest(layer), http.StatusCreated)
	return err
}

func (r *registry) pull(layer []byte, tag string) error {
	for _, path := range []string{"manifests/" + tag, "blobs/" + digest([]byte("{}")), "blobs/" + digest(layer)} {
		if _, err := fetch(r.url+"/v2/"+repository+"/"+path, r.token); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads a URL to its end, throws it away, and returns its size.
func fetch(address, token string) (int64, error) {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", mediaImage+", */*")
	if token != "" {
		req.SetBasicAuth("bench", token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", address, resp.Status)
	}
	return io.Copy(io.Discard, resp.Body)
}

// makeTags gives one image manyTags tags.
func (r *registry) makeTags() error {
	if err := r.push(random(10), "first"); err != nil {
		return err
	}
	layer := random(10)
	if err := r.push(layer, "v0"); err != nil {
		return err
	}
	for i := 1; i < manyTags-1; i++ {
		address := fmt.Sprintf("%s/v2/%s/manifests/v%d", r.url, repository, i)
		if _, err := r.send("PUT", address, mediaImage, manifest(layer), http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

// listTags reads all tags, page by page.
func (r *registry) listTags() error {
	n := 0
	for last := ""; ; {
		address := fmt.Sprintf("%s/v2/%s/tags/list?n=1000&last=%s", r.url, repository, last)
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		if r.token != "" {
			req.SetBasicAuth("bench", r.token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		var page struct{ Tags []string }
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&page), resp.Body.Close())
		if err != nil {
			return err
		}
		n += len(page.Tags)
		if len(page.Tags) < 1000 {
			break
		}
		last = page.Tags[len(page.Tags)-1]
	}
	if n < manyTags {
		return fmt.Errorf("%d tags were listed, and there are %d", n, manyTags)
	}
	return nil
}

// writeFile is what an upload cannot be faster than: the bytes in a file, their digest beside, and all of it synced.
func writeFile(path string, content []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(sum, f), struct{ io.Reader }{bytes.NewReader(content)})
	return errors.Join(err, f.Sync(), f.Close())
}
