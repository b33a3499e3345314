package web

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"slipway/internal/ci"
)

// show returns the text of a log's window without numbers, a line per line.
func show(log string) string {
	var v logView
	_, _ = v.Write([]byte(log))
	shown := regexp.MustCompile(`<div id="L\d+"><a href="#L\d+">\d+</a><code>(.*?)</code>`).ReplaceAllString(v.window(0), "$1")
	return strings.ReplaceAll(shown, "</div>", "")
}

func TestLogView(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"plain":            {"one\ntwo\n", "one\ntwo\n"},
		"open line":        {"one\ntw", "one\ntw\n"},
		"empty lines":      {"\n\nx\n", "\n\nx\n"},
		"html":             {"<script>alert(1)</script> & \"\n", "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;\n"},
		"colour":           {"a\x1b[31mred\x1b[0mb\n", `a<span class="f1">red</span>b` + "\n"},
		"over lines":       {"\x1b[1;92mx\ny\x1b[22m\x1b[39mz\n", "<span class=\"f10 bo\">x</span>\n<span class=\"f10 bo\">y</span>z\n"},
		"all styles":       {"\x1b[1;2;3;4;7;30;101mx\n", `<span class="f0 b9 bo fa it un in">x</span>` + "\n"},
		"256":              {"\x1b[38;5;9mx\x1b[38;5;196my\x1b[38;5;240mz\n", `<span class="f9">xy</span><span class="f8">z</span>` + "\n"},
		"true colour":      {"\x1b[38;2;20;200;10mx\x1b[48;2;0;0;255my\n", `<span class="f2">x</span><span class="f2 b12">y</span>` + "\n"},
		"broken colour":    {"\x1b[38;5mx\x1b[38my\x1b[38;9;1mz\x1b[999999999999999999mq\n", "xyzq\n"},
		"progress":         {"10%\r20%\r\x1b[K30%\n", "30%\n"},
		"progress open":    {"10%\r20%\r", "20%\n"},
		"progress column":  {"10%\x1b[1G20%\n", "20%\n"},
		"erase":            {"10%\x1b[2K20%\n", "20%\n"},
		"windows":          {"one\r\ntwo\r\n", "one\ntwo\n"},
		"link":             {"\x1b]8;;https://evil.example\x1b\\text\x1b]8;;\x07!\n", "text!\n"},
		"title":            {"\x1b]0;hacked\x07x\n", "x\n"},
		"cursor":           {"\x1b[2J\x1b[3;4Hx\x1b(B\x1b7\n", "x\n"},
		"unended sequence": {"\x1b[31\nx\x1b]0;abc\ny\n", "\nx\ny\n"},
		"control":          {"a\x00\x07\x08b\x7fc\td\n", "abc\td\n"},
		"invalid":          {"a\xffb\n", "a\uFFFDb\n"},
		"direction":        {"a\u202eb\u2066c\u2028d\n", "a\uFFFDb\uFFFDc\uFFFDd\n"},
		"c1":               {"a\u009b31mb\n", "a\uFFFD31mb\n"},
		"unicode":          {"ü€😀\n", "ü€😀\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(tt.log); got != tt.want {
				t.Errorf("%q shows %q, want %q", tt.log, got, tt.want)
			}
		})
	}
}

func TestLogViewBounds(t *testing.T) {
	var v logView
	for i := range 3 * windowLines {
		fmt.Fprintf(&v, "line %d\n", i+1)
	}
	fmt.Fprint(&v, "open")
	first, last := v.bounds()
	if first != 2*windowLines+1 || last != 3*windowLines+1 {
		t.Errorf("the window is %d to %d", first, last)
	}
	if got := strings.Count(v.window(3*windowLines-1), "<div"); got != 2 {
		t.Errorf("%d lines are new", got)
	}

	v = logView{}
	fmt.Fprint(&v, strings.Repeat("ü", lineBytes), "\nnext\n")
	if got := v.window(0); !strings.Contains(got, fmt.Sprintf("<i>… %d more bytes", lineBytes)) || strings.Contains(got, "\uFFFD") || len(got) > lineBytes+300 {
		t.Errorf("a long line is shown in %d bytes: ...%s", len(got), got[max(0, len(got)-200):])
	}

	v = logView{from: 3}
	n, err := fmt.Fprint(&v, strings.Repeat("x\n", windowLines+9))
	if !errors.Is(err, errWindowFull) {
		t.Errorf("%d, %v", n, err)
	}
	if first, last := v.bounds(); first != 3 || last != windowLines+3 {
		t.Errorf("the window is %d to %d", first, last)
	}

	v = logView{} // a style for every letter
	for range 100 {
		fmt.Fprint(&v, strings.Repeat("\x1b[1mx\x1b[2mx\x1b[0m", 5000), "\n")
	}
	if got := len(v.window(0)); got > 3*windowBytes {
		t.Errorf("the window has %d bytes", got)
	}
}

// FuzzLogView holds that nothing in a log becomes markup, and that it does not matter in which pieces it comes.
func FuzzLogView(f *testing.F) {
	f.Add([]byte("a\x1b[31mred\x1b[0mb\r\n<b>\x1b]8;;x\x1b\\y"), 3)
	f.Add([]byte("10%\r20%\x1b[K\x1b[38;5;200mx\xc3\xbc\xe2\x80\xae"), 1)
	line := regexp.MustCompile(`^<div id="L\d+"><a href="#L\d+">\d+</a><code>((<span class="[a-z0-9 ]+">[^<>"]*</span>|[^<>"])*)(<i>… \d+ more bytes in the raw log</i>)?</code></div>$`)
	f.Fuzz(func(t *testing.T, log []byte, cut int) {
		var whole, pieces logView
		if _, err := whole.Write(log); err != nil {
			t.Fatal(err)
		}
		for rest := log; len(rest) > 0; {
			n := min(max(cut, 1), len(rest))
			if _, err := pieces.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			pieces.window(0)
		}
		got := whole.window(0)
		if got != pieces.window(0) {
			t.Fatalf("in pieces it is %q, else %q", pieces.window(0), got)
		}
		if !utf8.ValidString(got) {
			t.Fatalf("not UTF-8: %q", got)
		}
		for shown := range strings.Lines(got) {
			if !line.MatchString(strings.TrimSuffix(shown, "\n")) {
				t.Fatalf("%q is not a line", shown)
			}
		}
	})
}

func BenchmarkLogView(b *testing.B) {
	text := []byte(strings.Repeat("2026-11-21T22:00:00Z \x1b[32mINFO\x1b[0m a line of a log as they are\n", 10_000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var v logView
		if _, err := v.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}

func TestChoose(t *testing.T) {
	step := func(number int, status ci.Status) ci.Step { return ci.Step{Number: number, Status: status} }
	run := func(status ci.Status, steps ...ci.Step) ci.Run {
		for i := range steps {
			if steps[i].Status != ci.Waiting && steps[i].Status != ci.Skipped {
				steps[i].Started = steps[i].Started.AddDate(2000, 0, i)
				steps[i].Finished = steps[i].Started
			}
		}
		return ci.Run{Status: status, Jobs: []ci.Job{{Number: 1, Steps: steps}}}
	}
	detached := step(1, ci.Running)
	detached.Detach = true
	for name, tt := range map[string]struct {
		run     ci.Run
		current int
		want    string
	}{
		"no steps":        {ci.Run{}, 0, ""},
		"nothing yet":     {run(ci.Pending, step(1, ci.Waiting), step(2, ci.Waiting)), 0, "1.1"},
		"running":         {run(ci.Running, step(1, ci.Success), step(2, ci.Running)), 1, "1.2"},
		"stays":           {run(ci.Running, step(1, ci.Running), step(2, ci.Running)), 2, "1.2"},
		"between":         {run(ci.Running, step(1, ci.Success), step(2, ci.Waiting)), 1, "1.1"},
		"not a service":   {run(ci.Running, detached, step(2, ci.Running)), 0, "1.2"},
		"failed":          {run(ci.Failure, step(1, ci.Success), step(2, ci.Failure), step(3, ci.Success)), 3, "1.2"},
		"ignored failure": {run(ci.Success, step(1, ci.Failure), step(2, ci.Success)), 0, "1.2"},
		"canceled":        {run(ci.Canceled, step(1, ci.Success), step(2, ci.Canceled), step(3, ci.Skipped)), 0, "1.2"},
	} {
		t.Run(name, func(t *testing.T) {
			var current place
			if tt.current > 0 {
				current = place{&tt.run.Jobs[0], &tt.run.Jobs[0].Steps[tt.current-1]}
			}
			if got := choose(tt.run, current).String(); got != tt.want {
				t.Errorf("chose %s, want %s", got, tt.want)
			}
		})
	}
}

func TestGraph(t *testing.T) {
	jobs := []ci.Job{
		{Number: 1, Name: "a"},
		{Number: 2, Name: "b", Needs: []string{"a"}},
		{Number: 3, Name: "c", Needs: []string{"a"}},
		{Number: 4, Name: "d", Needs: []string{"b", "c", "a"}}, // a by way of b
	}
	graph := graphOf(ci.Run{Jobs: jobs}, func(int, int) string { return "" })
	if len(graph.Nodes) != 4 || len(graph.Edges) != 4 {
		t.Fatalf("%d nodes, %d edges", len(graph.Nodes), len(graph.Edges))
	}
	a, b, c, d := graph.Nodes[0], graph.Nodes[1], graph.Nodes[2], graph.Nodes[3]
	if a.X >= b.X || b.X != c.X || c.X >= d.X || b.Y >= c.Y || d.X+nodeWidth > graph.Width || c.Y+nodeHeight > graph.Height {
		t.Errorf("nodes are at %v %v %v %v", a, b, c, d)
	}
	chain := ci.Run{Jobs: []ci.Job{{Number: 1, Steps: []ci.Step{{Name: "a"}, {Name: "b", Needs: []string{"a"}}}}}}
	if graphOf(chain, func(int, int) string { return "" }) != nil {
		t.Error("a chain is drawn")
	}
	cycle := []ci.Job{{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"a"}}} // plans have none, and it must end
	graphOf(ci.Run{Jobs: cycle}, nil)
}
