package metrics_test

import (
	"strings"
	"testing"

	"slipway/internal/metrics"
)

func TestWrite(t *testing.T) {
	var b strings.Builder
	err := metrics.Write(&b, []metrics.Family{
		metrics.One(metrics.Gauge, "things", "A back\\slash\nand a line.", 1.5),
		{Name: "none_total", Help: "Nothing.", Kind: metrics.Counter},
		{Name: "requests_total", Help: "Requests.", Kind: metrics.Counter, Samples: []metrics.Sample{
			{Labels: []string{"code", "200", "path", "a\"b\\c\nd"}, Value: 1 << 40},
			{Labels: []string{"code", "404", "path", ""}, Value: 0},
		}},
	})
	want := `# HELP things A back\\slash\nand a line.
# TYPE things gauge
things 1.5
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code="200",path="a\"b\\c\nd"} 1.099511627776e+12
requests_total{code="404",path=""} 0
`
	if err != nil || b.String() != want {
		t.Errorf("got %v:\n%s", err, b.String())
	}
}
