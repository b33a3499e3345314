package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	for _, tt := range []struct{ name, values, in, want string }{
		{"none", "", "some text", "some text"},
		{"empty", "s3cret", "", ""},
		{"one", "s3cret", "a s3cret b", "a [masked] b"},
		{"all of it", "s3cret", "s3cret", "[masked]"},
		{"twice", "s3cret", "s3crets3cret s3cret", "[masked][masked] [masked]"},
		{"case counts", "s3cret", "S3CRET", "S3CRET"},
		{"a part is not it", "s3cret", "s3cre s3cre\n3cret", "s3cre s3cre\n3cret"},
		{"longest first", "abc|abcdef", "abcdef abcd", "[masked] [masked]d"},
		{"one in the other", "bcd|abcde", "abcde abcd bcde", "[masked] a[masked] [masked]e"},
		{"overlap", "abc|cde", "abcde", "[masked]"},
		{"overlap with itself", "aaa", "aaaaa aa aaa", "[masked] aa [masked]"},
		{"a false start", "aab", "aaab", "a[masked]"},
		{"long false start", "abcabd|cab", "abcabcabd", "ab[masked]"},
		{"too short", "x|ab|  a ", "x ab a", "x ab a"},
		{"with space around", " s3cret\n", "a s3cret\nb", "a [masked]\nb"},
		{"lines", "first line\nsecond line\r\n}\n  third", "x\n  second line\n}first line third", "x\n  [masked]\n}[masked] [masked]"},
		{"bytes", "\xff\xfe\xfd", "a\xff\xfe\xfdb\xff", "a[masked]b\xff"},
		{"unicode", "pässwörd", "pässwörd pässword", "[masked] pässword"},
		{"the mask itself", "[masked]|masked", "masked [masked]", "[masked] [masked]"},
	} {
		m := NewMasker(strings.Split(tt.values, "|"))
		if got := m.Mask(tt.in); got != tt.want {
			t.Errorf("%s: %q became %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

var tricky = []string{
	"s3cret", "it's", `a"b'c\d$e`, "p@ss w/rd+1&x=y?", "<script>&</script>", "ünïcödé – 😀", "tab\there", "*()!~'",
	"user:pa%ss#w", "two\nlines of it", "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA75Xw1sd09f87sd09f87sd0f98\n0987sdf==\n-----END KEY-----\n",
	"\x1b[0m\x00\x01bin", "`id`", "back\\slash\\\\", `{"a": "b/c"}`,
}

// Each value in each encoding, as the standard library writes it, in the middle of a line.
func TestMaskEncodings(t *testing.T) {
	for _, value := range tricky {
		m := NewMasker([]string{value})
		encodings := map[string]string{
			"plain": value, "query": url.QueryEscape(value), "path": url.PathEscape(value), "go": fmt.Sprintf("%q", value),
			"go ascii": strconv.QuoteToASCII(value), "userinfo": url.UserPassword("u", value).String(),
		}
		text, err := json.Marshal(map[string]string{"key": value})
		if err != nil {
			t.Fatal(err)
		}
		encodings["json"] = string(text)
		for name, encoding := range map[string]*base64.Encoding{
			"std": base64.StdEncoding, "url": base64.URLEncoding, "raw std": base64.RawStdEncoding, "raw url": base64.RawURLEncoding,
		} {
			for before := range 4 {
				for after := range 4 {
					in := strings.Repeat("x", before) + value + strings.Repeat("y", after)
					encodings[fmt.Sprint(name, before, after)] = encoding.EncodeToString([]byte(in))
				}
			}
		}
		for name, in := range encodings {
			got := m.Mask("before " + in + " after")
			if !strings.Contains(got, Mask) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
				t.Errorf("%q as %s: %q became %q", value, name, in, got)
			}
			// What is left over of a base64 text is at most its ends, and what was around.
			if rest := strings.ReplaceAll(got, Mask, ""); name == "plain" && strings.TrimSpace(rest) != "before  after" &&
				!strings.Contains(value, "\n") {
				t.Errorf("%q as %s: %q is left", value, name, rest)
			} else if strings.Contains(name, "std") && len(rest) > len("before  after")+4+12 {
				t.Errorf("%q as %s: %q is left of %q", value, name, rest, in)
			}
		}
	}
}

// What real shells print when they trace a command with a secret in it.
func TestMaskShellTrace(t *testing.T) {
	for _, shell := range []string{"sh", "bash", "dash"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s on this machine", shell)
			continue
		}
		for _, value := range tricky {
			if strings.Contains(value, "\x00") {
				continue // not possible in an environment
			}
			cmd := exec.Command(path, "-xc", `: "$SECRET"; : "--password=$SECRET"`)
			cmd.Env = []string{"SECRET=" + value, "LC_ALL=C.UTF-8"}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := NewMasker([]string{value}).Mask(string(out))
			if strings.Count(got, Mask) < 2 || strings.Contains(got, strings.TrimSpace(value)) {
				t.Errorf("%s, %q: %q became %q", shell, value, out, got)
			}
		}
	}
}

// Tools break base64 of a long value into lines.
func TestMaskBrokenBase64(t *testing.T) {
	value := strings.Repeat("0123456789abcdef", 20)
	whole := base64.StdEncoding.EncodeToString([]byte(value))
	for _, width := range []int{64, 76} {
		var b strings.Builder
		for line := range slices.Chunk([]byte(whole), width) {
			fmt.Fprintf(&b, "%s\n", line)
		}
		if rest := strings.ReplaceAll(NewMasker([]string{value}).Mask(b.String()), Mask, ""); len(strings.Fields(rest)) > 0 {
			t.Errorf("lines of %d: %q is left", width, rest)
		}
	}
}

// A complete line is out at once, and of an incomplete one all that cannot be a secret.
func TestWriterHoldsBack(t *testing.T) {
	var out bytes.Buffer
	w := NewMasker([]string{"s3cret", "first line\nsecond"}).Writer(&out)
	for _, step := range []struct {
		in, out  string
		consumed int64
	}{
		{"hello", "hello", 5},
		{" s3c", "hello ", 6},
		{"ond s", "hello s3cond ", 13},
		{"3cre", "hello s3cond ", 13},
		{"t", "hello s3cond [masked]", 19},
		{"s3cre\n", "hello s3cond [masked]s3cre\n", 25},
		{"first line\n", "hello s3cond [masked]s3cre\n[masked]\n", 36},
		{"firs", "hello s3cond [masked]s3cre\n[masked]\n", 36},
	} {
		if n, err := w.Write([]byte(step.in)); n != len(step.in) || err != nil {
			t.Fatal(n, err)
		}
		if out.String() != step.out || w.Consumed() != step.consumed {
			t.Fatalf("after %q: %q, consumed %d; want %q, %d", step.in, out.String(), w.Consumed(), step.out, step.consumed)
		}
	}
	if err := w.Flush(); err != nil || !strings.HasSuffix(out.String(), "\nfirs") || w.Consumed() != 40 {
		t.Fatalf("flushed %q, %d, %v", out.String(), w.Consumed(), err)
	}
}

// A find without end, as `yes` prints it, takes no memory.
func TestWriterLongFind(t *testing.T) {
	var out bytes.Buffer
	w := NewMasker([]string{"aaaa"}).Writer(&out)
	chunk := bytes.Repeat([]byte("a"), 1000)
	for range 1000 {
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if cap(w.held) > 10_000 || w.Consumed() != 0 {
		t.Fatalf("holds %d bytes, consumed %d", cap(w.held), w.Consumed())
	}
	if _, err := w.Write([]byte("b")); err != nil || out.String() != "[masked]b" || w.Consumed() != 1_000_001 {
		t.Fatalf("wrote %.50q, consumed %d, %v", out.String(), w.Consumed(), err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func TestWriterFails(t *testing.T) {
	broken := errors.New("broken")
	w := NewMasker([]string{"s3cret"}).Writer(failingWriter{broken})
	for range 2 {
		if _, err := w.Write([]byte("text")); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); !errors.Is(err, broken) || w.Consumed() != 0 {
		t.Fatal(err, w.Consumed())
	}
}

// naive masks s as the documentation says, pattern by pattern, and returns the parts that are not masked, too.
func naive(values []string, s string) (masked string, rest []string) {
	var finds []find
	for _, value := range values {
		for _, form := range forms(value) {
			for at := 0; ; at++ {
				i := strings.Index(s[at:], form)
				if i < 0 {
					break
				}
				at += i
				finds = append(finds, find{int64(at), int64(at + len(form))})
			}
		}
	}
	slices.SortFunc(finds, func(a, b find) int { return int(a.start - b.start) })
	var b strings.Builder
	at := int64(0)
	for i := 0; i < len(finds); {
		f := finds[i]
		for i++; i < len(finds) && (finds[i].start < f.end); i++ {
			f.end = max(f.end, finds[i].end)
		}
		b.WriteString(s[at:f.start] + Mask)
		rest = append(rest, s[at:f.start])
		at = f.end
	}
	b.WriteString(s[at:])
	return b.String(), append(rest, s[at:])
}

// FuzzMask holds the masker to the naive one, in random chunks, and resumed where a crash would have left it.
func FuzzMask(f *testing.F) {
	f.Add("s3cret|abc", "a s3cret abcabc s3cre", uint64(1))
	f.Add("aaa|aab", "aaaabaaabaa", uint64(2))
	f.Add("first\nsecond\nthird", "first\nsecond thirthird", uint64(3))
	f.Add("it's|a\"b", `it'\''s a\"b aXQncw==`, uint64(4))
	f.Add("abab|baba", "abababababab ababbaba", uint64(5))
	f.Fuzz(func(t *testing.T, joined, s string, seed uint64) {
		if len(joined) > 200 || len(s) > 2000 {
			t.Skip()
		}
		values := strings.Split(joined, "|")
		m := NewMasker(values)
		want, rest := naive(values, s)
		if got := m.Mask(s); got != want {
			t.Fatalf("values %q: %q became %q, want %q", values, s, got, want)
		}
		for _, part := range rest {
			for _, value := range values {
				if len(value) >= MinMasked && value == strings.TrimSpace(value) && !strings.ContainsAny(value, "\r\n") && strings.Contains(part, value) {
					t.Fatalf("%q survives in %q", value, part)
				}
			}
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var out bytes.Buffer
		w := m.Writer(&out)
		offset := 0 // of the stream that w gets
		for at := 0; at < len(s); {
			n := 1 + random.IntN(len(s)-at)
			if random.IntN(2) == 0 {
				n = 1 + random.IntN(min(4, len(s)-at))
			}
			if _, err := w.Write([]byte(s[at : at+n])); err != nil {
				t.Fatal(err)
			}
			at += n
			if !strings.HasPrefix(want, out.String()) {
				t.Fatalf("wrote %q, which %q does not begin with", out.String(), want)
			}
			if random.IntN(4) == 0 { // a crash
				offset += int(w.Consumed())
				at = offset
				w = m.Writer(&out)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want || offset+int(w.Consumed()) != len(s) {
			t.Fatalf("in chunks: %q, want %q; consumed %d of %d", out.String(), want, offset+int(w.Consumed()), len(s))
		}
	})
}

func BenchmarkMask(b *testing.B) {
	var text bytes.Buffer
	for i := range 10_000 {
		fmt.Fprintf(&text, "2026-02-03T12:00:00Z go: downloading github.com/example/module v1.%d.0 => /root/go/pkg/mod\n", i)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 10, 100} {
		b.Run(fmt.Sprintf("secrets=%d", n), func(b *testing.B) {
			var values []string
			for range n {
				value := make([]byte, 15)
				for i := range value {
					value[i] = byte(random.Uint32())
				}
				values = append(values, base64.RawStdEncoding.EncodeToString(value))
			}
			m := NewMasker(values)
			var out discard
			w := m.Writer(&out)
			b.SetBytes(int64(text.Len()))
			for b.Loop() {
				for chunk := range slices.Chunk(text.Bytes(), 32<<10) {
					if _, err := w.Write(chunk); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

type discard struct{}

func (*discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkNewMasker(b *testing.B) {
	value := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz/+\n", 100)
	b.ReportAllocs()
	for b.Loop() {
		NewMasker([]string{value})
	}
}
