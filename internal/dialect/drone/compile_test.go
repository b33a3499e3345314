package drone

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

// Compiling anything never panics, and gives a valid plan or problems that have a place, the same each time.
func FuzzCompile(f *testing.F) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file(archive, ".drone.yml"), uint8(0), true)
		f.Add(file(archive, ".drone.yml"), uint8(1), false)
	}
	f.Add([]byte("kind: pipeline\na: &a [*a]\n"), uint8(2), true)
	f.Fuzz(func(t *testing.T, text []byte, kind uint8, trusted bool) {
		in, err := goldenInput([]string{"", "tag v1.2.3", "pull_request feature", "manual\nparam A=b"}[kind%4])
		if err != nil {
			t.Fatal(err)
		}
		in.Repo.Trusted = trusted
		src := plan.Source{Name: ".drone.yml", Text: text}
		p, problems, err := Compile(src, in)
		for _, problem := range problems {
			if problem.Line < 1 || problem.Column < 1 || problem.Line > bytes.Count(text, []byte("\n"))+1 {
				t.Fatalf("a problem without a place in the file: %v", problem)
			}
		}
		if (err != nil) != (problems.Err() != nil) {
			t.Fatalf("the error is %v, the problems are %v", err, problems)
		}
		if err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, job := range p.Jobs {
			if what := job.NeedsTrust(); what != "" && !trusted {
				t.Fatalf("a plan for an untrusted repo: job %q: %s", job.Name, what)
			}
		}
		again, _, _ := Compile(src, in)
		if indent(t, p) != indent(t, again) {
			t.Fatal("the same input gave two plans")
		}
	})
}

func steps(n int) []byte {
	var b bytes.Buffer
	b.WriteString("kind: pipeline\ntype: docker\nname: default\n\nsteps:\n")
	for i := range n {
		fmt.Fprintf(&b, `
- name: step-%d
  image: golang:1.26
  pull: if-not-exists
  environment:
    GOFLAGS: -mod=mod
    TOKEN: {from_secret: token}
    COMMIT: ${DRONE_COMMIT_SHA:0:8}
  commands:
  - go vet ./...
  - go test -race ./... | tee test-%d.log
  when:
    event: [push, pull_request]
    branch: {include: [main, release/*], exclude: [old]}
`, i, i)
		if i > 0 {
			fmt.Fprintf(&b, "  depends_on: [step-%d]\n", i-1)
		}
	}
	return b.Bytes()
}

func BenchmarkCompile200Steps(b *testing.B) {
	src := plan.Source{Name: ".drone.yml", Text: steps(200)}
	in, err := goldenInput("")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(src.Text)))
	b.ReportAllocs()
	for b.Loop() {
		p, _, err := Compile(src, in)
		if err != nil || len(p.Jobs[0].Steps) != 201 {
			b.Fatal(err)
		}
	}
}

// A file at its bounds must end with an error or a plan of a size that can be stored.
func TestBounds(t *testing.T) {
	in, err := goldenInput("message " + strings.Repeat("x", 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	bomb := "kind: pipeline\nname: x\nx-0: &a0 [a,a,a,a,a,a,a,a,a,a]\n"
	for i := range 10 {
		bomb += fmt.Sprintf("x-%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9), i)
	}
	many := ""
	for i := range plan.MaxJobs + 1 {
		many += fmt.Sprintf("---\nkind: pipeline\nname: p%d\nsteps: [{name: a, image: b}]\n", i)
	}
	for name, test := range map[string]struct{ text, want string }{
		"size":      {strings.Repeat("#", maxBytes+1), "at most 1048576 are read"},
		"aliases":   {bomb, "unfolds to more than"},
		"steps":     {string(steps(plan.MaxSteps)), "has 1000 steps"},
		"pipelines": {many, "has 501 pipelines"},
		"depth":     {"kind: pipeline\na: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested more than"},
		"binary":    {"kind: pipeline\nname: \xff\n", "UTF-8"},
		"variable":  {"kind: pipeline\nsteps: [{name: a, image: b}]\n# " + strings.Repeat("${DRONE_COMMIT_MESSAGE}", 200), "too long"},
	} {
		_, problems, err := Compile(plan.Source{Name: ".drone.yml", Text: []byte(test.text)}, in)
		if err == nil || !strings.Contains(problems.Error(), test.want) {
			t.Errorf("%s: %.300v", name, problems)
		}
	}
	p, _, err := Compile(plan.Source{Name: ".drone.yml", Text: steps(900)}, in)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := json.Marshal(p); err != nil || len(data) > 4<<20 {
		t.Errorf("a plan of 900 steps has %d bytes, error %v", len(data), err)
	}
}

// The script does in a real shell what it should: it shows commands as they are written, stops at the first that fails,
// and hides the credentials after writing them where git finds them.
func TestScript(t *testing.T) {
	home := t.TempDir()
	cmd := exec.Command("/bin/sh")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "X=expanded",
		"DRONE_NETRC_MACHINE=git.example.com", "DRONE_NETRC_USERNAME=u", "DRONE_NETRC_PASSWORD=p%s",
	}
	cmd.Stdin = strings.NewReader(script([]string{
		`echo "$X" '\n' # it's`,
		"if true; then\n  echo two\nfi\n",
		"echo ${DRONE_NETRC_PASSWORD:-none}",
		"false | true", // there is no pipefail
		"false",
		"echo never",
	}))
	out, err := cmd.Output()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the script ended with %v, want 1", err)
	}
	want := `+ echo "$X" '\n' # it's
expanded \n
+ if true; then
  echo two
fi
two
+ echo ${DRONE_NETRC_PASSWORD:-none}
none
+ false | true
+ false
`
	// What echo makes of \n is the shell's affair.
	if got := strings.Replace(string(out), "expanded \n\n", "expanded \\n\n", 1); got != want {
		t.Errorf("output is\n%s\nwant\n%s", out, want)
	}
	netrc, err := os.ReadFile(filepath.Join(home, ".netrc"))
	if err != nil || string(netrc) != "machine git.example.com login u password p%s\n" {
		t.Errorf(".netrc is %q, %v", netrc, err)
	}
	if info, err := os.Stat(filepath.Join(home, ".netrc")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf(".netrc: %v, %v", info, err)
	}
}

func TestZeroInput(t *testing.T) {
	p, problems, err := Compile(plan.Source{Name: ".drone.yml", Text: steps(1)}, plan.Input{Event: ci.Event{Kind: ci.Push, Ref: "refs/heads/main", Target: "main"}})
	if err != nil || len(problems) > 0 || len(p.Jobs) != 1 {
		t.Errorf("%v %v %v", p, problems, err)
	}
}
