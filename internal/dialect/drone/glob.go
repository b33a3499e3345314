package drone

import (
	"fmt"
	"regexp"
	"strings"
)

// trim removes what matches pattern, shortest or longest by op, from the beginning (#) or end (%) of v.
func trim(v, pattern, op string) (string, error) {
	if v == "" || pattern == "" {
		return v, nil
	}
	if op[0] == '%' {
		v, err := trim(reverse(v), reverse(pattern), strings.ReplaceAll(op, "%", "#"))
		return reverse(v), err
	}
	longest := op == "##"
	if strings.Trim(pattern, "*") == "" {
		if longest {
			return "", nil
		}
		return v[1:], nil // the shortest match is never empty here
	}
	re, ok := globRegexp(pattern, longest)
	if !ok {
		return v, nil
	}
	if m := re.FindStringIndex(v); m != nil {
		return v[m[1]:], nil
	}
	return v, nil
}

func reverse(s string) string {
	runes := []rune(s)
	for i, j := 0, len(runes)-1; i < j; i, j = i+1, j-1 {
		runes[i], runes[j] = runes[j], runes[i]
	}
	return string(runes)
}

// globRegexp translates a pattern of *, ?, [...] and \ to a regular expression for the beginning of a text, which takes
// linear time on all of them. Stars match slashes too.
func globRegexp(pattern string, longest bool) (*regexp.Regexp, bool) {
	var re strings.Builder
	re.WriteString("^(?s:")
	runes := []rune(pattern)
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; r {
		case '*':
			for i+1 < len(runes) && runes[i+1] == '*' {
				i++
			}
			re.WriteString(".*?")
		case '?':
			re.WriteString(".")
		case '[':
			class, n, ok := globClass(runes[i+1:])
			if !ok {
				return nil, false
			}
			re.WriteString(class)
			i += n
		case '\\':
			if i++; i == len(runes) {
				return nil, false
			}
			re.WriteString(regexp.QuoteMeta(string(runes[i])))
		default:
			re.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	re.WriteString(")")
	compiled, err := regexp.Compile(re.String())
	if err != nil {
		return nil, false
	}
	if longest {
		compiled.Longest()
	}
	return compiled, true
}

// globClass translates what follows an opening bracket and returns how many runes it took.
func globClass(runes []rune) (class string, n int, ok bool) {
	var b strings.Builder
	i := 0
	negated := len(runes) > 0 && runes[0] == '^'
	if negated {
		i++
	}
	end := func() (rune, bool) {
		if i >= len(runes) || runes[i] == '-' || runes[i] == ']' {
			return 0, false
		}
		if runes[i] == '\\' {
			if i++; i >= len(runes) {
				return 0, false
			}
		}
		i++
		return runes[i-1], i < len(runes)
	}
	for ranges := 0; ; ranges++ {
		if i < len(runes) && runes[i] == ']' && ranges > 0 {
			break
		}
		low, ok := end()
		if !ok {
			return "", 0, false
		}
		high := low
		if runes[i] == '-' {
			i++
			if high, ok = end(); !ok {
				return "", 0, false
			}
		}
		if low <= high {
			fmt.Fprintf(&b, `\x{%x}-\x{%x}`, low, high)
		}
	}
	switch {
	case b.Len() == 0 && negated:
		return ".", i + 1, true
	case b.Len() == 0:
		return `[^\x{0}-\x{10FFFF}]`, i + 1, true
	case negated:
		return "[^" + b.String() + "]", i + 1, true
	}
	return "[" + b.String() + "]", i + 1, true
}
