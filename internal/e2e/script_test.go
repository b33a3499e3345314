package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs what users type, in testdata/*.txtar, each script on a server of its own. Scripts have the variables
// SLIPWAY_SERVER and SLIPWAY_TOKEN, and GIT, which is the address of the git endpoint with the token in it. The command
// `exits CODE COMMAND` expects an exit code.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			s := start(t, "host")
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(env *testscript.Env) error {
					env.Setenv("PATH", filepath.Dir(slipway)+":"+env.Getenv("PATH"))
					env.Setenv("HOME", env.WorkDir)
					env.Setenv("SLIPWAY_SERVER", s.api.URL)
					env.Setenv("SLIPWAY_TOKEN", s.api.Token)
					env.Setenv("HOST", s.host)
					env.Setenv("GIT", "http://ada:"+s.api.Token+"@"+s.host+"/git")
					for _, v := range []string{"AUTHOR", "COMMITTER"} {
						env.Setenv("GIT_"+v+"_NAME", "Ada")
						env.Setenv("GIT_"+v+"_EMAIL", "ada@example.com")
					}
					env.Setenv("GIT_CONFIG_NOSYSTEM", "1")
					env.Setenv("GIT_TERMINAL_PROMPT", "0")
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
			})
		})
	}
}

// exits runs a command that must end with an exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	script := `code=$1; shift; "$@"; got=$?; test $got = "$code" || { echo "exit code $got, want $code"; exit 1; }`
	ts.Check(ts.Exec("sh", append([]string{"-c", script, "exits"}, args...)...))
}
