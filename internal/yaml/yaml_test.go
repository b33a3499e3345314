package yaml

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t testing.TB, text string) *Node {
	t.Helper()
	n, _, err := Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestValue(t *testing.T) {
	for text, want := range map[string]any{
		"text": "text", `"1"`: "1", "'yes'": "yes", "|-\n  yes": "yes", "a b": "a b",
		"": nil, "~": nil, "null": nil, "Null": nil, `""`: "",
		"yes": true, "Yes": true, "on": true, "ON": true, "y": true, "true": true,
		"no": false, "off": false, "N": false, "False": false, "yEs": "yEs",
		"42": int64(42), "-7": int64(-7), "+7": int64(7), "0755": int64(493), "0o755": int64(493), "0x1F": int64(31), "0b11": int64(3),
		"1_000": int64(1000), "18446744073709551615": uint64(math.MaxUint64), "36893488147419103232": 36893488147419103232.0,
		"1.10": 1.1, "1e3": 1000.0, "-.5": -0.5, ".inf": math.Inf(1), "-.INF": math.Inf(-1), "1.2.3": "1.2.3", "08": 8.0, "0x1p4": "0x1p4",
		"12:30:00": "12:30:00", "2001-01-01": "2001-01-01", "_1": "_1", ".": ".", "+": "+", "1e": "1e",
		"!!str 12": "12", `!!int "12"`: int64(12), `!!bool "yes"`: true, "!custom 12": "12", `!!null ""`: nil,
		"[1, [a, no], {x: ~}]":    []any{int64(1), []any{"a", false}, map[string]any{"x": nil}},
		"{y: 1, 2: b, 1.0: c}":    map[string]any{"true": int64(1), "2": "b", "1": "c"},
		`{"y": 1, ~: a, 0x10: b}`: map[string]any{"y": int64(1), "null": "a", "16": "b"},
	} {
		if got := parse(t, "v: "+text+"\n").Get("v").Value(); !cmp.Equal(got, want) {
			t.Errorf("%s is %T(%v), want %T(%v)", text, got, got, want, want)
		}
	}
	if f, ok := parse(t, ".nan").Value().(float64); !ok || !math.IsNaN(f) {
		t.Error(".nan is a number")
	}
}

func TestMerge(t *testing.T) {
	n, duplicates, err := Parse(`
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
one: {<<: *base, b: x}
late:
  b: x
  <<: *base
many: {<<: [*more, *base], d: 5}
inline: {<<: {e: 6}}
quoted: {"<<": 7}
chain: &chain {<<: *base, f: 8}
chained: {<<: *chain}
`, nil)
	if err != nil || len(duplicates) > 0 {
		t.Fatal(err, duplicates)
	}
	one := int64(1)
	for key, want := range map[string]any{
		"one":     map[string]any{"a": one, "b": "x"},
		"late":    map[string]any{"a": one, "b": "x"},
		"many":    map[string]any{"a": one, "b": int64(3), "c": int64(4), "d": int64(5)},
		"inline":  map[string]any{"e": int64(6)},
		"quoted":  map[string]any{"<<": int64(7)},
		"chained": map[string]any{"a": one, "b": int64(2), "f": int64(8)},
	} {
		if diff := cmp.Diff(want, n.Get(key).Value()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if p := n.Get("one").Get("a").Pos; p != (Pos{2, 17}) {
		t.Errorf("what is merged keeps the place where it is written, not %v", p)
	}
}

func TestDuplicates(t *testing.T) {
	n, duplicates, err := Parse("a: 1\nb: 2\na: 3\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(duplicates) != 1 || duplicates[0].Key.Pos != (Pos{3, 1}) || duplicates[0].First != (Pos{1, 1}) {
		t.Errorf("duplicates are %+v", duplicates)
	}
	if n.Get("a").Text != "3" || len(n.Entries) != 2 {
		t.Errorf("the last one must hold: %v", n.Value())
	}
}

func TestPositions(t *testing.T) {
	n := parse(t, "a:\n- é: [x, \"y\"]\n  b: |\n    text\n")
	item := n.Get("a").Items[0]
	for _, test := range []struct {
		node *Node
		want Pos
	}{
		{n.Entries[0].Key, Pos{1, 1}},
		{item, Pos{2, 3}},
		{item.Get("é").Items[0], Pos{2, 7}},
		{item.Get("é").Items[1], Pos{2, 10}},
		{item.Get("b"), Pos{3, 6}},
	} {
		if test.node.Pos != test.want {
			t.Errorf("%q is at %v, want %v", test.node.Text, test.node.Pos, test.want)
		}
	}
	mapped, _, err := Parse("a: b", func(p Pos) Pos { return Pos{p.Line + 10, p.Column} })
	if err != nil || mapped.Get("a").Pos != (Pos{11, 4}) {
		t.Errorf("places are not mapped: %v %v", mapped, err)
	}
}

func TestErrors(t *testing.T) {
	bomb := "a0: &a0 [x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	merges := "base: &b {" + strings.TrimSuffix(strings.Repeat("k%d: 1, ", 1000), ", ") + "}\n"
	keys := make([]any, 1000)
	for i := range keys {
		keys[i] = i
	}
	merges = fmt.Sprintf(merges, keys...)
	for i := range 300 {
		merges += fmt.Sprintf("m%d: {<<: *b}\n", i)
	}
	for _, test := range []struct {
		text, want string
		at         Pos
	}{
		{"a: b: c\n", "mapping values are not allowed", Pos{1, 1}},
		{"a: 1\nb: [1\nc: 2\n", "did not find expected", Pos{2, 1}},
		{"a: *x\n", "unknown anchor", Pos{1, 1}},
		{"a: &a\n  b: *a\n", "inside of what it names", Pos{2, 6}},
		{bomb, "unfolds to more than", Pos{18, 6}},
		{merges, "merge keys unfold", Pos{}},
		{"a: {<<: 1}\n", "<< merges a mapping", Pos{1, 9}},
		{"a: {<<: [1]}\n", "<< merges a mapping", Pos{1, 9}},
		{"a: {[b]: 1}\n", "a key must be a single value", Pos{1, 5}},
		{"a:\n- \xff\n", "UTF-8", Pos{2, 3}},
		{strings.Repeat("[", 150) + strings.Repeat("]", 150), "nested more than", Pos{1, 102}},
		{"a: \x01\n", "control characters", Pos{1, 1}},
		{strings.Repeat(" ", MaxBytes+1), "bytes; at most", Pos{1, 1}},
	} {
		_, _, err := Parse(test.text, nil)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, test.want) {
			t.Errorf("%.40q: %v, want %q", test.text, err, test.want)
			continue
		}
		if pos, message := ErrorAt(err); test.at != (Pos{}) && (pos != test.at || message != e.Message) {
			t.Errorf("%.40q: error at %v, want %v", test.text, pos, test.at)
		}
	}
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]Document{
		"":                           nil,
		"# only\n---\n\n":            nil,
		"a: b":                       {{"a: b", 1}},
		"---\na: b\n---\nc: d\n":     {{"a: b\n", 2}, {"c: d\n", 4}},
		"--- # x\na: b\n----\nc: d":  {{"a: b\n", 2}, {"c: d", 4}},
		"a: b\n...\nc: d\n---\ne: f": {{"a: b\n", 1}},
		"\uFEFFa: b\n ---\n":         {{"a: b\n ---\n", 1}},
		"a: b\r\n---\r\nc: d\r\n":    {{"a: b\r\n", 1}, {"c: d\r\n", 3}},
	} {
		if diff := cmp.Diff(want, Split(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if p := (Document{Line: 7}).At(Pos{2, 3}); p != (Pos{8, 3}) {
		t.Errorf("the second line of a document in line 7 is %v", p)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"commands", "command", "environment", "image", "when", "name"}
	for word, want := range map[string]string{
		"comands": "commands", "environmant": "environment", "iamge": "image", "nam": "name",
		"custom_dns": "", "x": "", "": "", "branches": "", "Image": "image", strings.Repeat("x", 1000): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%.20q is near %q, want %q", word, got, want)
		}
	}
}

// Whatever the text, parsing ends in time with a bounded tree in which everything has its place, or an error that has.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"a: b", "- 1\n- [x, {y: z}]", "a: &a {b: 1}\nc: {<<: *a}", "a: &a [*a]", "|\n  x", "? [a]\n: b", "!!str 1", "%YAML 1.1\n---\na", "a: 'b", "\t",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Count(text, "\n") + 1
		inside := func(p Pos) bool { return 1 <= p.Line && p.Line <= lines+strings.Count(text, "\r") && p.Column >= 1 }
		n, _, err := Parse(text, nil)
		if err != nil {
			if pos, _ := ErrorAt(err); !inside(pos) {
				t.Fatalf("error %v is outside", err)
			}
			return
		}
		nodes := 0
		var walk func(n *Node)
		walk = func(n *Node) {
			if nodes++; nodes > MaxNodes {
				t.Fatalf("the tree is larger than %d", MaxNodes)
			}
			if n.Kind == Scalar && n.Tag == "" && n.Text != "" && !inside(n.Pos) {
				t.Fatalf("%q is at %v", n.Text, n.Pos)
			}
			for _, item := range n.Items {
				walk(item)
			}
			for _, e := range n.Entries {
				walk(e.Key)
				walk(e.Value)
			}
		}
		if n != nil {
			walk(n)
			n.Value()
		}
	})
}
