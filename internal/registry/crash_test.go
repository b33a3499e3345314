package registry_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipway/internal/registry"
	"slipway/internal/remote"
	"slipway/internal/retention"
	"slipway/internal/store/sqlstore"
)

// crashDir names, in the environment, the folder that this test binary serves when it is started as a server.
const crashDir = "SLIPWAY_TEST_REGISTRY_DIR"

// What such a server is told in the environment beside that, by TestStress.
const (
	// crashGrace is its grace period; with one it cleans up and collects all the time.
	crashGrace = "SLIPWAY_TEST_REGISTRY_GRACE"
	// crashDatabase is the URL of its database, if that is not in its folder.
	crashDatabase = "SLIPWAY_TEST_REGISTRY_DATABASE"
	// crashS3 is the address of the bucket of its blobs, and crashMirror the host of the registry that it mirrors.
	crashS3     = "SLIPWAY_TEST_REGISTRY_S3"
	crashMirror = "SLIPWAY_TEST_REGISTRY_MIRROR"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := serveForCrash(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveForCrash serves the registry in dir, and prints its address.
func serveForCrash(dir string) error {
	db, err := sqlstore.Open(context.Background(), cmp.Or(os.Getenv(crashDatabase), filepath.Join(dir, "slipway.db")))
	if err != nil {
		return err
	}
	ctx := context.Background()
	o, err := crashOptions(ctx, db, dir, os.Getenv)
	if err != nil {
		return err
	}
	var cleaner *retention.Cleaner
	if o.Grace > 0 {
		if cleaner, err = newCleaner(ctx, db, o.Grace, time.Now); err != nil {
			return err
		}
		if err := db.PutQuota(ctx, stressSmall, stressQuota); err != nil {
			return err
		}
		o.Immutable = cleaner.Fixed
	}
	h, err := registry.New(o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if cleaner == nil {
		return http.Serve(l, h)
	}
	go func() {
		fmt.Fprintln(os.Stderr, collectForCrash(h, cleaner, dir, o.S3 != nil))
		os.Exit(1)
	}()
	return http.Serve(l, restores(h, cleaner))
}

// crashOptions are those of the server in dir, which finds by getenv what it is told.
func crashOptions(ctx context.Context, db *sqlstore.DB, dir string, getenv func(string) string) (o registry.Options, err error) {
	o = registry.Options{Dir: filepath.Join(dir, "registry"), Store: db, Authority: testPeople, Key: make([]byte, 32)}
	if grace := getenv(crashGrace); grace != "" {
		if o.Grace, err = time.ParseDuration(grace); err != nil {
			return o, err
		}
	}
	if host := getenv(crashMirror); host != "" {
		o.Mirror = registry.Mirror{Hosts: []string{host}, Client: remote.New(remote.Options{Insecure: []string{host}}), Fresh: time.Second}
	}
	if address := getenv(crashS3); address != "" {
		o.Log = slog.New(slog.DiscardHandler) // the store is killed, and that it is away is said often
		o.S3, err = registry.OpenS3(ctx, address, o.Dir)
	}
	return o, err
}

// startServer starts a server process on dir, with more in its environment. It returns its URL and what kills it.
func startServer(t *testing.T, dir string, env ...string) (url string, kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), crashDir+"="+dir), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	return "http://" + strings.TrimSpace(line), kill
}

// TestKill kills the server with SIGKILL while four clients push, ten times: whatever push was accepted can be pulled,
// whole, from the next server.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	accepted := map[string]string{} // tag to manifest digest
	for round := range 10 {
		url, kill := startServer(t, dir)
		var group sync.WaitGroup
		pushed := make(chan struct{}, 1000)
		for worker := range 4 {
			group.Go(func() {
				for i := range 250 {
					tag := fmt.Sprintf("t%d-%d-%d", round, worker, i)
					digest, err := pushImage(url, tag)
					if err != nil {
						return // the server was killed
					}
					mu.Lock()
					accepted[tag] = digest
					mu.Unlock()
					pushed <- struct{}{}
				}
			})
		}
		// After some pushes, and so in the middle of others.
		for range 1 + round {
			<-pushed
		}
		kill()
		group.Wait()
	}

	url, _ := startServer(t, dir)
	for tag, digest := range accepted {
		manifest, err := get(url + "/v2/octo/app/manifests/" + tag)
		if err != nil || sum256(manifest) != digest {
			t.Fatalf("tag %s: %v", tag, err)
		}
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal(manifest, &m); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{m.Config.Digest, m.Layers[0].Digest} {
			if blob, err := get(url + "/v2/octo/app/blobs/" + want); err != nil || sum256(blob) != want {
				t.Fatalf("tag %s: blob %s: %v", tag, want, err)
			}
		}
	}
	t.Logf("%d pushes were accepted, and all can be pulled", len(accepted))
}

// pushImage pushes an image of random bytes and returns its digest once the server has accepted it.
func pushImage(url, tag string) (string, error) {
	put := func(method, path string, body []byte) error {
		req, err := http.NewRequest(method, url+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.SetBasicAuth("admin", "admin-password")
		req.Header.Set("Content-Type", mediaImage)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusCreated {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	}
	config, layer := random(100), random(100_000)
	for _, blob := range [][]byte{config, layer} {
		if err := put("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(blob), blob); err != nil {
			return "", err
		}
	}
	m := encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []object{descriptor(mediaLayer, layer)},
	})
	return sum256(m), put("PUT", "/v2/octo/app/manifests/"+tag, m)
}

func get(url string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("admin", "admin-password")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}
