package flow

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// topic is that of the comment which says what a pull request would change.
const topic = "diff"

// remarkable reports whether there is a pull request to say something on.
func remarkable(run ci.Run) bool { return run.Event.PullRequest != nil }

// comment says on the pull request of a run what deploying it would change, as far as its steps have found out. Newer runs
// rewrite what older ones said.
func (f *Flow) comment(ctx context.Context, run ci.Run) error {
	previews, err := f.Store.ListPreviews(ctx, run.Repo, run.Number)
	if err != nil || len(previews) == 0 {
		return err
	}
	at, known, err := f.audience(ctx, run)
	if err != nil {
		return err
	}
	commenter, ok := at.(forge.Commenter)
	if !ok {
		return nil
	}
	return commenter.Comment(ctx, known, forge.Comment{
		Change: run.Event.PullRequest.Number, Topic: topic, Run: run.Number, Body: commentOn(run, previews, f.Link(run.Repo, run.Number)),
	})
}

func remarkKey(run ci.Run) statusKey {
	return statusKey{run.Repo, fmt.Sprintf("pull request %d", run.Event.PullRequest.Number), topic}
}

// commentOn writes previews of a run as Markdown, of at most [forge.MaxComment] bytes. What the repo's people did not write
// themselves (names, values, what the cluster says) stands in code alone, where no forge takes it for markup.
func commentOn(run ci.Run, previews []ci.Preview, link string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### What deploying would change\n\nAt commit %s, by a dry run of the cluster in [run %d](%s). [All of it](%s/changes)\n",
		codeSpan(run.Event.After[:min(len(run.Event.After), 10)]), run.Number, link, link)
	left := forge.MaxComment - b.Len()
	for i, p := range previews {
		// What is left is shared, so that no environment takes the place of the others.
		part := commentPart(p, left/(len(previews)-i))
		b.WriteString(part)
		left -= len(part)
	}
	return b.String()
}

// commentPart writes one preview in at most limit bytes.
func commentPart(p ci.Preview, limit int) string {
	var head, cautions strings.Builder
	fmt.Fprintf(&head, "\n#### %s", codeSpan(p.Environment))
	if p.Namespace != "" && p.Namespace != p.Environment {
		fmt.Fprintf(&head, " in %s", codeSpan(p.Namespace))
	}
	if p.Message != "" {
		fmt.Fprintf(&head, "\n\n%s\n", codeBlock("", []string{bounded(plainLine(p.Message), 2000)}))
		return fits(head.String(), limit)
	}
	fmt.Fprintf(&head, ": %s\n", p.Summary())
	for _, d := range p.Differences {
		if d.Caution != "" {
			fmt.Fprintf(&cautions, "\n⚠️ **%s** (%s): %s\n", codeSpan(d.Object), mild(d.Action), mild(d.Caution))
		}
	}
	head.WriteString(fits(cautions.String(), limit/4))
	const rest = 300 // for what is around the lines
	var lines []string
	size, more := head.Len()+rest, 0
	for _, d := range p.Differences {
		own := diffLines(d)
		bytes := 0
		for _, line := range own {
			bytes += len(line) + 1
		}
		if more > 0 || size+bytes > limit {
			more++
			continue
		}
		size += bytes
		lines = append(lines, own...)
	}
	if len(lines) > 0 {
		block := codeBlock("diff", lines)
		if len(lines) > 40 {
			block = "<details><summary>Show them</summary>\n\n" + block + "\n\n</details>"
		}
		head.WriteString("\n" + block + "\n")
	}
	if more += p.Omitted; more > 0 {
		fmt.Fprintf(&head, "\n%d more are too long for a comment.\n", more)
	}
	return fits(head.String(), limit)
}

// fits returns text if it is short enough, and else a sentence.
func fits(text string, limit int) string {
	if len(text) > limit {
		return "\nThere is too much for a comment.\n"
	}
	return text
}

// diffLines are the lines of one object, as forges colour differences.
func diffLines(d ci.Difference) []string {
	sign := map[string]string{"create": "+", "delete": "-", "replace": "!", "refuse": "!", "change": "!"}[d.Action]
	name := d.Object
	if d.Namespace != "" {
		name += " in " + d.Namespace
	}
	lines := []string{plainLine(fmt.Sprintf("%1s %s: %s", sign, name, d.Action))}
	add := func(sign, format string, args ...any) {
		lines = append(lines, sign+"     "+plainLine(fmt.Sprintf(format, args...)))
	}
	for _, f := range d.Fields {
		switch {
		case len(f.Lines) > 0:
			add(" ", "%s:", f.Path)
			for _, line := range f.Lines {
				if sign, text := line[:min(1, len(line))], line[min(1, len(line)):]; sign == "+" || sign == "-" {
					add(sign, "  %s", text)
				} else {
					add(" ", "  %s", line)
				}
			}
		case f.Old == f.New:
			add("!", "%s: another value", f.Path)
		default:
			if f.Old != "" {
				add("-", "%s: %s", f.Path, f.Old)
			}
			if f.New != "" {
				add("+", "%s: %s", f.Path, f.New)
			}
		}
	}
	for _, note := range d.Notes {
		add(" ", "# %s", note)
	}
	if d.Error != "" {
		add("!", "%s", d.Error)
	}
	return lines
}

// plainLine makes one line of a text, without control characters.
func plainLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// mild leaves nothing of a sentence that any forge takes for markup, a mention or a reference.
func mild(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(" .,:;'()", r) {
			return r
		}
		return ' '
	}, bounded(plainLine(s), 300))
}

// codeSpan puts a text between backticks, in which nothing of it is markup.
func codeSpan(s string) string {
	s = strings.TrimSpace(strings.ReplaceAll(plainLine(s), "`", "'"))
	if s == "" {
		return ""
	}
	return "`" + bounded(s, 300) + "`"
}

// codeBlock puts lines between fences that are longer than every one among them.
func codeBlock(language string, lines []string) string {
	text := strings.Join(lines, "\n")
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + language + "\n" + text + "\n" + fence
}

func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
