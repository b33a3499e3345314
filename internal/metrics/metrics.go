// Package metrics writes numbers in the text format that Prometheus reads.
//
// It has no registry of counters: who counts keeps the numbers as it likes, and says them as [Family] values when asked.
// The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
package metrics

import (
	"io"
	"strconv"
	"strings"
)

// ContentType is the media type of what [Write] writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind says how a family's numbers behave.
type Kind string

// The kinds. A Counter only grows while the process lives, a Gauge goes up and down.
const (
	Counter Kind = "counter"
	Gauge   Kind = "gauge"
)

// Family is all samples of one name.
type Family struct {
	// Name has letters, digits and underscores; by custom it ends with its unit, and a counter's with _total.
	Name string
	// Help is one sentence.
	Help    string
	Kind    Kind
	Samples []Sample
}

// Sample is one number.
type Sample struct {
	// Labels tell the samples of a family apart: names, each followed by its value.
	Labels []string
	Value  float64
}

// One returns a family that has one sample, without labels.
func One(kind Kind, name, help string, value float64) Family {
	return Family{Name: name, Help: help, Kind: kind, Samples: []Sample{{Value: value}}}
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Write writes the families that have samples.
func Write(w io.Writer, families []Family) error {
	var b strings.Builder
	for _, f := range families {
		if len(f.Samples) == 0 {
			continue
		}
		b.WriteString("# HELP " + f.Name + " " + escapeHelp.Replace(f.Help) + "\n")
		b.WriteString("# TYPE " + f.Name + " " + string(f.Kind) + "\n")
		for _, s := range f.Samples {
			b.WriteString(f.Name)
			for i := 0; i+1 < len(s.Labels); i += 2 {
				separator := ","
				if i == 0 {
					separator = "{"
				}
				b.WriteString(separator + s.Labels[i] + `="` + escapeLabel.Replace(s.Labels[i+1]) + `"`)
			}
			if len(s.Labels) > 1 {
				b.WriteString("}")
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
