package drone

import (
	"errors"
	"strings"
	"testing"

	"slipway/internal/yaml"
)

var substituteVariables = map[string]string{
	"v":   "abcabc",
	"ref": "refs/heads/feature/a-b",
	"e":   "",
	"u":   "Éaé",
	"tag": "v1.2.3",
}

func lookup(name string) (string, bool) {
	v, ok := substituteVariables[name]
	return v, ok
}

// The results are those of github.com/drone/envsubst v1.0.3.
func TestSubstitute(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"$v $ ${v}", "$v $ abcabc"},
		{"${unknown}|${1}|${e}", "||"},
		{"$${v} $$ $$$$", "${v} $ $$"},
		{`\\ \/ \n`, `\ / \n`},
		{"${v^} ${v^^} ${u,} ${u,,}", "Abcabc ABCABC éaé éaé"},
		{"${v,^}", "abcabc"},
		{"${#v} ${#unknown}", "6 0"},
		{"${v:2} ${v:1:2} ${v:4:9} ${v:9}", "cabc bc bc "},
		{"${v: -2} ${v:x} ${v:1:x} ${v:1::2}", "abcabc abcabc abcabc bc"},
		{"${tag#v} ${tag##v} ${tag##*.} ${tag%.*} ${tag%%.*}", "1.2.3 1.2.3 3 v1.2 v1"},
		{"${ref##*/} ${ref#*/} ${ref%/*} ${ref%%/*}", "a-b heads/feature/a-b refs/heads/feature refs"},
		{"${v#*} ${v##*} ${v%*} ${v#[a-c]} ${v#[^a]} ${v#?}", "bcabc  abcab bcabc abcabc bcabc"},
		{"${v#[}", "abcabc"},
		{"${u#?}${u%?}", "aéÉa"},
		{`${ref//\//-} ${ref/\//-}`, "refs-heads-feature-a-b refs-heads/feature/a-b"},
		{"${v/b/x} ${v//b/x} ${v/#a/x} ${v/%c/x}", "axcabc axcaxc xbcabc abcabx"},
		{"${v/b/} ${v//b/} ${v/#a/} ${v/%c/}", "acabc acac abcabc abcabc"},
		{"${e=d} ${e:=d} ${e:-d} ${v:-d} ${v=d}", "d d d abcabc abcabc"},
		{"${v:+alt} ${e:+alt} ${e:?message}", "abcabc alt message"},
		{"${e:-${v}} ${e:-a${v}b} ${e:-${e:-x}}", "abcabc aabcabcb x"},
		{"${v#${e:-a}}", "bcabc"},
		{"${v}}", "abcabc}"},
	} {
		got, err := substitute(test.in, lookup)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
		} else if got.text != test.want {
			t.Errorf("%s gives %q, want %q", test.in, got.text, test.want)
		}
	}
}

func TestSubstituteRefuses(t *testing.T) {
	for _, in := range []string{
		"${", "${}", "${v", "${v-def}", "${v+def}", "${ARR[@]}", "${!v}", "${v#}", "${v:}", "${v:1:}", "${#}", "${#v:1}",
		"${v/a}", "${v@Q}", "${v:1:-1}", "${-}", "${ v }", "${v^^^}", "${v#a${e}}",
		strings.Repeat("${e:-", 100) + strings.Repeat("}", 100),
	} {
		if got, err := substitute("x"+in, lookup); err == nil {
			t.Errorf("%s gives %q, want an error", in, got.text)
		} else if e, ok := errors.AsType[*substituteError](err); !ok || e.offset != 1 {
			t.Errorf("%s: the error is %v, want one at offset 1", in, err)
		}
	}
}

// A short text must not become one that exhausts the machine.
func TestSubstituteIsBounded(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	value := func(string) (string, bool) { return long, true }
	for _, in := range []string{strings.Repeat("${v}", 100), "${v//a/${v}}", "${v//a/bbbb}", "${e:-" + strings.Repeat("${v}", 100) + "}"} {
		if got, err := substitute(in, value); err == nil {
			t.Errorf("%.20s gives %d bytes, want an error", in, len(got.text))
		}
	}
}

func TestSubstituteKeepsPlaces(t *testing.T) {
	text := "a: ${v}${unknown}\nb: é$$x ${e:-1\n2} c: d\n${v}: z\n"
	got, err := substitute(text, lookup)
	if err != nil {
		t.Fatal(err)
	}
	if want := "a: abcabc\nb: é$x 1\n2 c: d\nabcabc: z\n"; got.text != want {
		t.Fatalf("got %q, want %q", got.text, want)
	}
	at := got.at(text)
	for _, test := range []struct{ here, there yaml.Pos }{
		{yaml.Pos{Line: 1, Column: 1}, yaml.Pos{Line: 1, Column: 1}},
		{yaml.Pos{Line: 1, Column: 6}, yaml.Pos{Line: 1, Column: 4}}, // inside of a value: where it came from
		{yaml.Pos{Line: 2, Column: 1}, yaml.Pos{Line: 2, Column: 1}},
		{yaml.Pos{Line: 2, Column: 4}, yaml.Pos{Line: 2, Column: 4}},
		{yaml.Pos{Line: 2, Column: 6}, yaml.Pos{Line: 2, Column: 7}},
		{yaml.Pos{Line: 3, Column: 3}, yaml.Pos{Line: 3, Column: 4}},
		{yaml.Pos{Line: 4, Column: 7}, yaml.Pos{Line: 4, Column: 5}},
		{yaml.Pos{Line: 2, Column: 1}, yaml.Pos{Line: 2, Column: 1}}, // going back works too
	} {
		if p := at(test.here); p != test.there {
			t.Errorf("%v came from %v, want %v", test.here, p, test.there)
		}
	}
	if len(got.unknown) != 1 || got.unknown[0] != (unknown{"unknown", 7}) {
		t.Errorf("unknown are %v", got.unknown)
	}
}

func FuzzSubstitute(f *testing.F) {
	for _, seed := range []string{
		"${v}", "$${v}", "${v:1:2}", "${v//a/b}", "${v/#a/b}", "${v##*[a-c]}", "${v%%?}", "${e:-${v^^}}", "${#v}", `${v/\//x}`, "a\n${v}\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := substitute(text, lookup)
		if err != nil {
			if e, ok := errors.AsType[*substituteError](err); !ok || e.offset < 0 || e.offset >= len(text) || !strings.HasPrefix(text[e.offset:], "${") {
				t.Fatalf("the error %v does not point at an expression", err)
			}
			return
		}
		if len(got.text) > maxSubstituted+len(text) {
			t.Fatalf("%d bytes became %d", len(text), len(got.text))
		}
		if !strings.ContainsAny(text, `$\`) && got.text != text {
			t.Fatalf("%q became %q", text, got.text)
		}
		at, last := got.at(text), 0
		for i := range got.text {
			from := got.from(i)
			if from < last || from > len(text) {
				t.Fatalf("offset %d came from %d, after %d", i, from, last)
			}
			last = from
		}
		at(yaml.Pos{Line: 1 << 20, Column: 1})
	})
}
