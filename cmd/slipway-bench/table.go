package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// samples are repeated readings of one thing.
type samples []time.Duration

// at returns the reading below which the given share of all lies.
func (s samples) at(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func (s samples) p50() time.Duration { return s.at(0.5) }

// String is the median and the 95th percentile.
func (s samples) String() string {
	return fmt.Sprintf("p50 %s, p95 %s", short(s.p50()), short(s.at(0.95)))
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// row is one line of the table. What is empty is printed as such.
type row struct {
	what, measured, peer, ratio string
	target                      string
	met                         bool // meaningless without a target
}

func (r row) cells() []string {
	verdict := ""
	switch {
	case r.target != "" && r.met:
		verdict = "met"
	case r.target != "":
		verdict = "NOT MET"
	}
	return []string{r.what, r.measured, r.peer, r.ratio, r.target, verdict}
}

var columns = []string{"what", "measured", "peer", "ratio", "target", ""}

// table is the result.
type table struct {
	head []string
	rows []row
	raw  []string // Markdown, one paragraph each
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

// compare adds a row that is judged by its ratio to a peer, unless limit is 0.
func (t *table) compare(what string, ours samples, peer string, theirs samples, ratio, limit float64) {
	r := row{what: what, measured: ours.String(), peer: peer + " " + theirs.String(), ratio: fmt.Sprintf("%.2f", ratio)}
	if limit > 0 {
		r.target, r.met = fmt.Sprintf("ratio ≤ %.2f", limit), ratio <= limit
	}
	t.add(r)
}

// limit adds a row that is judged by its median, unless limit is 0.
func (t *table) limit(what string, ours samples, limit time.Duration) {
	r := row{what: what, measured: ours.String()}
	if limit > 0 {
		r.target, r.met = "p50 < "+short(limit), ours.p50() < limit
	}
	t.add(r)
}

// keep keeps the readings themselves.
func (t *table) keep(what string, s samples) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d readings in ms:", what, len(s))
	for _, d := range s {
		fmt.Fprintf(&b, " %.2f", d.Seconds()*1e3)
	}
	t.raw = append(t.raw, b.String())
}

// note keeps a sentence beside the readings.
func (t *table) note(format string, args ...any) { t.raw = append(t.raw, fmt.Sprintf(format, args...)) }

// verdict counts the targets.
func (t *table) verdict() string {
	met, all := 0, 0
	for _, r := range t.rows {
		if r.target != "" {
			all++
			if r.met {
				met++
			}
		}
	}
	return fmt.Sprintf("%d of %d targets met", met, all)
}

func (t *table) print(w io.Writer) {
	fmt.Fprintln(w)
	for _, line := range t.head {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(columns, "\t"))
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r.cells(), "\t"))
	}
	_ = tw.Flush()
	fmt.Fprintln(w, "\n"+t.verdict())
}

// markdown is the table with everything that it was made of.
func (t *table) markdown(command string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results of one machine\n\nMade by `%s`; what each number means is in [README.md](README.md).\n\n", command)
	for _, line := range t.head {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(), " | "))
	}
	fmt.Fprintf(&b, "\n%s.\n\n## Raw numbers\n", t.verdict())
	for _, paragraph := range t.raw {
		fmt.Fprintf(&b, "\n%s\n", paragraph)
	}
	return b.String()
}
