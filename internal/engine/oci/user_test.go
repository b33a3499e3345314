package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/plan"
)

// FuzzFindUser resolves any user in any image.
func FuzzFindUser(f *testing.F) {
	f.Add("printer:x:1000:1001::/home/printer:/bin/sh\n", "paper:x:1002:printer\n", "printer")
	f.Add("a:b:c:d:e:f\n", "x:y:4294967295:\n", "1000:x")
	f.Add("root:x:0:0:::", ":::::", ":")
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		for name, content := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		user, home, err := findUser(dir, spec)
		if err == nil && (user == nil || home == "") {
			t.Errorf("user %+v, home %q", user, home)
		}
	})
}

// TestFindUserLinks has an image whose passwd leads out of it: to a file of the machine, and to one that never ends.
func TestFindUserLinks(t *testing.T) {
	for _, target := range []string{"/etc/passwd", "../../../../../../../../etc/passwd", "/dev/zero"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if user, _, err := findUser(dir, "daemon"); err == nil {
			t.Errorf("passwd -> %s: found %+v", target, user)
		}
		if user, home, err := findUser(dir, ""); err != nil || user.UID != 0 || home != "/root" {
			t.Errorf("passwd -> %s: root is %+v, %q, %v", target, user, home, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	own := resolvConf(plan.Exec{DNS: []string{"192.0.2.1", "192.0.2.5\nnameserver 192.0.2.66"}}, []string{"192.0.2.2"})
	if !strings.HasPrefix(own, "nameserver 192.0.2.1\n") || strings.Count(own, "nameserver") != 1 {
		t.Errorf("a step's servers gave %q", own)
	}
	if got := resolvConf(plan.Exec{}, []string{"192.0.2.2"}); !strings.HasPrefix(got, "nameserver 192.0.2.2\n") {
		t.Errorf("the engine's servers gave %q", got)
	}
	if got := resolvConf(plan.Exec{}, nil); strings.Contains(got, "nameserver 127.") || strings.Contains(got, "nameserver ::1") {
		t.Errorf("the machine's servers gave %q", got)
	}
}
