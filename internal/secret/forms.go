package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
)

// MinMasked is the length in bytes from which on values, and lines of values, are masked. What is shorter is in every
// log by chance, and masking it would hide nothing and make the log unreadable.
const MinMasked = 3

// forms returns everything that is masked for a value: its lines, and what common tools make of it. No form has a line
// break, so that a complete line of a log never waits for the next.
func forms(value string) []string {
	var all []string
	add := func(form string) {
		for line := range strings.FieldsFuncSeq(form, func(r rune) bool { return r == '\n' || r == '\r' }) {
			// Without the space around it: a program that prints a secret trims or indents it as it likes.
			if line = strings.TrimSpace(line); len(line) >= MinMasked {
				all = append(all, line)
			}
		}
	}
	escapes := func(v string) {
		for _, form := range escaped(v) {
			add(form)
		}
	}
	for _, v := range []string{value, strings.TrimSpace(value)} { // $(cat file) and many a client cut the last line break
		if len(v) < MinMasked {
			continue
		}
		add(v)
		escapes(v)
		for _, form := range base64Forms(v) {
			add(form)
		}
	}
	if strings.ContainsAny(value, "\r\n") {
		for line := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == '\n' || r == '\r' }) {
			if line = strings.TrimSpace(line); len(line) >= MinMasked {
				escapes(line)
			}
		}
	}
	return all
}

// escaped returns v as it stands in a URL, in JSON, in Go's %q, and in the trace of a shell (set -x).
func escaped(v string) []string {
	query, path := url.QueryEscape(v), url.PathEscape(v)
	strict := strings.ReplaceAll(query, "+", "%20") // RFC 3986, section 2.3
	component := strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(strict)
	password := url.UserPassword("", v).String()[1:]
	urls := []string{query, path, password, strict, component} // the last one is JavaScript's encodeURIComponent
	all := []string{}
	for _, u := range urls {
		all = append(all, u, lowerPercent(u))
	}

	plain, html := jsonText(v, false), jsonText(v, true)
	all = append(all, plain, html, asciiText(plain), strings.ReplaceAll(plain, "/", `\/`))
	all = append(all, unquote(strconv.Quote(v)), unquote(strconv.QuoteToASCII(v)))

	all = append(all,
		strings.ReplaceAll(v, `'`, `'\''`),                                                       // bash: 'it'\''s'
		strings.ReplaceAll(v, `'`, `'"'"'`),                                                      // dash, busybox: 'it'"'"'s'
		strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(v),              // "it's"
		strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(v), // bash: $'it\'s'
		backslashed(v), // bash's printf %q: it\'s
	)
	return all
}

// lowerPercent writes the digits of percent encoding in lower case, as some libraries do.
func lowerPercent(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// jsonText returns v as it stands between the quotes of a JSON string.
func jsonText(v string, escapeHTML bool) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(escapeHTML)
	if err := encoder.Encode(v); err != nil {
		return v // it cannot fail for a string
	}
	return unquote(strings.TrimSuffix(b.String(), "\n"))
}

func unquote(s string) string { return s[1 : len(s)-1] }

// asciiText escapes in a JSON text what is not ASCII, as Python's json does.
func asciiText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// backslashed puts a backslash before what is special to a shell.
func backslashed(v string) string {
	var b strings.Builder
	for _, r := range v {
		if strings.ContainsRune(" \t!\"#$&'()*,;<>?[\\]^`{|}~", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// minTail is the length from which on the last line of broken base64 is masked: shorter ones are found by chance.
const minTail = 8

// base64Forms returns what base64 makes of v, alone or in the middle of something, in both alphabets.
func base64Forms(v string) []string {
	var all []string
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for before := range 3 {
			// What comes before v changes its first character or two, what comes after the last one.
			padded := encoding.EncodeToString(append(make([]byte, before), v...))
			start, end := (before*8+5)/6, (before+len(v))*8/6
			all = append(all, padded[start:end])                      // in the middle
			all = append(all, strings.TrimRight(padded[start:], "=")) // at the end
			all = append(all, padded[start:])
		}
		// Tools break long lines: base64 after 76 characters, openssl and PEM after 64.
		whole := encoding.EncodeToString([]byte(v))
		for _, width := range []int{64, 76} {
			for rest := whole; len(whole) > width && rest != ""; {
				n := min(width, len(rest))
				if n >= minTail {
					all = append(all, rest[:n])
				}
				rest = rest[n:]
			}
		}
	}
	return all
}
