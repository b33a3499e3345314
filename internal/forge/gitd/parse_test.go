package gitd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzReadPush(f *testing.F) {
	zero, one := strings.Repeat("0", 40), strings.Repeat("1", 40)
	line := zero + " " + one + " refs/heads/main\x00report-status side-band-64k"
	f.Add(fmt.Appendf(nil, "%04x%s0000PACK", len(line)+4, line))
	f.Add([]byte("0000"))
	f.Add([]byte("fff1" + line))
	f.Fuzz(func(t *testing.T, input []byte) {
		in := bytes.NewReader(input)
		push, err := readPush(in)
		if err != nil {
			return
		}
		if rest, _ := io.ReadAll(in); string(push.raw)+string(rest) != string(input) {
			t.Errorf("reading changed the input: %q + %q", push.raw, rest)
		}
		for _, c := range push.commands {
			if !strings.HasPrefix(c.Ref, "refs/") || strings.ContainsAny(c.Ref, " \n\x00") {
				t.Errorf("unsafe ref %q", c.Ref)
			}
		}
	})
}

func FuzzRelay(f *testing.F) {
	f.Add([]byte("0030\x01000eunpack ok\n0019ok refs/heads/main\n00000000"), true)
	f.Add([]byte("000eunpack ok\n0000"), false)
	f.Fuzz(func(t *testing.T, answer []byte, sideband bool) {
		p := push{sideband: sideband, commands: []command{{Before: "0", After: "1", Ref: "refs/heads/main"}}}
		var out bytes.Buffer
		report, ended, err := p.relay(&out, bytes.NewReader(answer))
		if moved, _ := p.moved(report); len(moved) > 1 {
			t.Error("more moved than was asked")
		}
		if err == nil && !sideband && (ended || !bytes.Equal(out.Bytes(), answer)) {
			t.Errorf("relayed %q as %q", answer, out.Bytes())
		}
	})
}

func FuzzParseCommit(f *testing.F) {
	f.Add([]byte("tree 1\nauthor Ada <ada@example.com> 1700000000 +0100\ncommitter x\n\nTitle\n\nBody\n"))
	f.Add([]byte("author \xff <> 99999999999999999999 +99999\n\n\xfe"))
	f.Fuzz(func(t *testing.T, content []byte) {
		c := parseCommit(content)
		for _, s := range []string{c.Message, c.Author.Name, c.Author.Email} {
			if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Errorf("unsafe text %q", s)
			}
		}
	})
}

func FuzzReadObjects(f *testing.F) {
	f.Add([]byte("1111 blob 3\nabc\n"))
	f.Add([]byte("x missing\n"))
	f.Add([]byte("symlink 4\n../x\n"))
	f.Fuzz(func(t *testing.T, printed []byte) {
		objects, err := readObjects(bufio.NewReader(bytes.NewReader(printed)), 2, 1)
		if err == nil && len(objects[0].content) > 2 {
			t.Errorf("read %d bytes, want at most 2", len(objects[0].content))
		}
	})
}

func TestBandWriterSplits(t *testing.T) {
	var out bytes.Buffer
	text := strings.Repeat("x", 3*maxPacket)
	if n, err := (bandWriter{w: &out, band: bandProgress}).Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	var got strings.Builder
	buf := make([]byte, maxPacket)
	for {
		packet, err := readPacket(&out, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if packet[4] != bandProgress {
			t.Fatalf("band %d", packet[4])
		}
		got.Write(packet[5:])
	}
	if got.String() != text {
		t.Error("what was written is not what was read")
	}
}
