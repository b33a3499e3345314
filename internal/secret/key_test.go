package secret

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"slipway/internal/ci"
)

func openKeys(t testing.TB, path string) *Keys {
	t.Helper()
	keys, err := OpenKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestSealOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := openKeys(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file has mode %v, %v", info.Mode(), err)
	}
	for _, value := range [][]byte{nil, []byte("v"), bytes.Repeat([]byte{0, 255}, MaxValue/2)} {
		sealed, err := keys.Seal(value, "secret", "a/b", "name")
		if err != nil {
			t.Fatal(err)
		}
		again, err := keys.Seal(value, "secret", "a/b", "name")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(sealed, again) || (len(value) > 8 && bytes.Contains(sealed, value[:8])) {
			t.Error("what is sealed gives something away")
		}
		got, err := openKeys(t, path).Open(sealed, "secret", "a/b", "name")
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("opened %q, %v", got, err)
		}
		// It opens nowhere else, and not with a bit changed.
		for _, about := range [][]string{
			nil,
			{"secret", "a/b"},
			{"secret", "a/b", "other"},
			{"secret", "a", "/bname"},
			{"secret", "a/b", "name", ""},
			{"secreta/bname"},
			{"token", "a/b", "name"},
		} {
			if _, err := keys.Open(sealed, about...); err == nil || !strings.Contains(err.Error(), "moved from another place") {
				t.Errorf("opened as %q: %v", about, err)
			}
		}
		for i := range min(len(sealed), 100) {
			broken := bytes.Clone(sealed)
			broken[i] ^= 1
			if _, err := keys.Open(broken, "secret", "a/b", "name"); err == nil {
				t.Errorf("opened with byte %d changed", i)
			}
		}
		for i := range min(len(sealed), 100) {
			if _, err := keys.Open(sealed[:i], "secret", "a/b", "name"); err == nil {
				t.Errorf("opened the first %d bytes", i)
			}
		}
	}
	if _, err := keys.Seal(make([]byte, MaxValue+1)); err == nil {
		t.Error("a value that is too long was sealed")
	}
}

func TestWrongKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.key")
	secret := ci.Secret{Repo: "a/b", Name: "PASSWORD"}
	var err error
	secret.Sealed, err = openKeys(t, filepath.Join(t.TempDir(), "key")).SealSecret("a/b", "password", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = openKeys(t, path).OpenSecret(secret)
	if err == nil || !strings.HasPrefix(err.Error(), "secret PASSWORD of a/b: the value was sealed with key ") ||
		!strings.HasSuffix(err.Error(), ", which is not in "+path+"; restore that file, or set the secret again") {
		t.Fatalf("error is %v", err)
	}
}

func TestRotation(t *testing.T) {
	folder := t.TempDir()
	oldPath, newPath, both := filepath.Join(folder, "old"), filepath.Join(folder, "new"), filepath.Join(folder, "both")
	oldKeys, newKeys := openKeys(t, oldPath), openKeys(t, newPath)
	var content []byte
	for _, path := range []string{newPath, oldPath} {
		line, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, line...)
	}
	if err := os.WriteFile(both, content, 0o600); err != nil {
		t.Fatal(err)
	}
	keys := openKeys(t, both)
	before, err := oldKeys.Seal([]byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.Open(before); err != nil || string(got) != "v" {
		t.Fatalf("the old key opened %q, %v", got, err)
	}
	after, err := keys.Seal([]byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := newKeys.Open(after); err != nil || string(got) != "v" {
		t.Fatalf("the new key opened %q, %v", got, err)
	}
}

func TestOpenKeysConcurrent(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "key")
	sealed := make([][]byte, 20)
	var group errgroup.Group
	for i := range sealed {
		group.Go(func() error {
			keys, err := OpenKeys(path)
			if err == nil {
				sealed[i], err = keys.Seal([]byte("v"))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, s := range sealed {
		if _, err := openKeys(t, path).Open(s); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Fatalf("the folder has %v, %v", entries, err)
	}
}

func TestBadKeyFile(t *testing.T) {
	folder := t.TempDir()
	good := filepath.Join(folder, "good")
	openKeys(t, good)
	key, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		"":                              "line 1: it is not a key",
		"nonsense":                      "line 1: it is not a key",
		linePrefix + "AAAA":             "line 1: it is not a key",
		string(key) + "half":            "line 2: it is not a key",
		strings.ToUpper(string(key)):    "line 1: it is not a key",
		string(key[:len(key)-8]) + "\n": "line 1: it is not a key",
	} {
		path := filepath.Join(folder, "bad")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenKeys(path)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), string(key[15:30])) {
			t.Errorf("%q: error is %v", content, err)
		}
	}
	if err := os.Chmod(good, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeys(good); err == nil || !strings.HasSuffix(err.Error(), "run: chmod 600 "+good) {
		t.Errorf("error is %v", err)
	}
	if _, err := OpenKeys(filepath.Join(folder, "no", "key")); err == nil {
		t.Error("a key was made in a folder that is not there")
	}
}

func TestFor(t *testing.T) {
	secrets := []ci.Secret{{Name: "deploy"}, {Name: "Test", PullRequests: true}}
	names := func(secrets []ci.Secret) string {
		var all []string
		for _, s := range secrets {
			all = append(all, s.Name)
		}
		return strings.Join(all, " ")
	}
	same, fork := &ci.Change{Number: 1}, &ci.Change{Number: 1, Fork: true}
	for _, tt := range []struct {
		event ci.Event
		want  string
	}{
		{ci.Event{Kind: ci.Push}, "deploy Test"},
		{ci.Event{Kind: ci.Tag}, "deploy Test"},
		{ci.Event{Kind: ci.Cron}, "deploy Test"},
		{ci.Event{Kind: ci.Promote}, "deploy Test"},
		{ci.Event{Kind: ci.Rollback}, "deploy Test"},
		{ci.Event{Kind: ci.Manual}, "deploy Test"},
		{ci.Event{Kind: ci.PullRequest, PullRequest: same}, "Test"},
		{ci.Event{Kind: ci.PullRequest, PullRequest: fork}, ""},
		{ci.Event{Kind: ci.PullRequest}, ""},
		{ci.Event{Kind: ci.Manual, PullRequest: same}, "Test"}, // a repeated run of a pull request
		{ci.Event{Kind: ci.Manual, PullRequest: fork}, ""},
	} {
		if got := names(For(tt.event, secrets)); got != tt.want {
			t.Errorf("%+v may have %q, want %q", tt.event, got, tt.want)
		}
	}
	if names(secrets) != "deploy Test" {
		t.Error("For changed its argument")
	}
	for name, want := range map[string]bool{"test": true, "TEST": true, "tes": false, "": false} {
		if _, ok := Find(secrets, name); ok != want {
			t.Errorf("find %q: %v", name, ok)
		}
	}
}
