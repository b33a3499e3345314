package web

import (
	"fmt"
	"strings"
	"time"

	"slipway/internal/ci"
)

// Measures of the graph, in pixels of its own.
const (
	nodeWidth  = 184
	nodeHeight = 44
	columnGap  = 44
	rowGap     = 14
	margin     = 4
	// maxNodes bounds the graph; more than that is no picture any more.
	maxNodes = 200
)

// graphView is a picture of what needs what: a directed graph in columns, each to the right of all that it needs.
type graphView struct {
	// What the nodes are: "jobs" or "steps".
	What          string
	Width, Height int
	Nodes         []graphNode
	Edges         []graphEdge
}

type graphNode struct {
	Name   string
	Label  string // the name, cut to fit
	Status ci.Status
	Link   string
	// Started and Finished say how long it took.
	Started, Finished time.Time
	X, Y              int
	needs             []string
}

type graphEdge struct {
	// Path is the curve, as SVG's path data.
	Path string
	// Status is that of the node which the edge leaves.
	Status ci.Status
}

// graphOf draws the jobs of a run; of a run with one job its steps, if they are more than a chain. It returns nil when
// a list tells as much.
func graphOf(run ci.Run, link func(job, step int) string) *graphView {
	var nodes []graphNode
	what := "jobs"
	if len(run.Jobs) == 1 {
		what = "steps"
		for _, step := range run.Jobs[0].Steps {
			nodes = append(nodes, graphNode{
				Name: step.Name, Status: step.Status, Link: link(1, step.Number), needs: step.Needs,
				Started: step.Started, Finished: step.Finished,
			})
		}
	} else {
		for _, job := range run.Jobs {
			nodes = append(nodes, graphNode{
				Name: job.Name, Status: job.Status, Link: fmt.Sprintf("#job-%d", job.Number), needs: job.Needs,
				Started: job.Started, Finished: job.Finished,
			})
		}
	}
	if len(nodes) < 2 || len(nodes) > maxNodes {
		return nil
	}
	graph := layOut(nodes)
	graph.What = what
	if what == "steps" && graph.Height == nodeHeight+2*margin {
		return nil // a chain
	}
	return graph
}

// layOut puts each node into the first column to the right of what it needs, and each column's nodes below each other in
// their order. Plans have no cycles; a need that is not there draws no edge.
func layOut(nodes []graphNode) *graphView {
	index := map[string]int{}
	for i, n := range nodes {
		index[n.Name] = i
	}
	columns := make([]int, len(nodes))
	for again, rounds := true, 0; again && rounds < len(nodes); rounds++ {
		again = false
		for i, n := range nodes {
			for _, need := range n.needs {
				if k, ok := index[need]; ok && columns[i] <= columns[k] && k != i {
					columns[i], again = columns[k]+1, true
				}
			}
		}
	}
	graph := &graphView{Nodes: nodes}
	rows := map[int]int{}
	for i := range nodes {
		n := &graph.Nodes[i]
		n.Label = fit(n.Name, 16)
		n.X = margin + columns[i]*(nodeWidth+columnGap)
		n.Y = margin + rows[columns[i]]*(nodeHeight+rowGap)
		rows[columns[i]]++
		graph.Width = max(graph.Width, n.X+nodeWidth+margin)
		graph.Height = max(graph.Height, n.Y+nodeHeight+margin)
	}
	for _, n := range graph.Nodes {
		for _, need := range n.needs {
			k, ok := index[need]
			if !ok || implied(nodes, index, n, k) {
				continue
			}
			from := graph.Nodes[k]
			x1, y1, x2, y2 := from.X+nodeWidth, from.Y+nodeHeight/2, n.X, n.Y+nodeHeight/2
			bend := x1 + columnGap/2
			graph.Edges = append(graph.Edges, graphEdge{
				// Straight on to the last gap and bent there, so that an edge over several columns is seen to pass.
				Path:   fmt.Sprintf("M%d %dC%d %d %d %d %d %dL%d %d", x1, y1, bend, y1, bend, y2, x1+columnGap, y2, x2, y2),
				Status: from.Status,
			})
		}
	}
	return graph
}

// implied reports whether n needs node k by way of another node that it needs as well: then an edge to k would tell
// nothing, and cross what is between them.
func implied(nodes []graphNode, index map[string]int, n graphNode, k int) bool {
	seen := make([]bool, len(nodes))
	var reaches func(from graphNode) bool
	reaches = func(from graphNode) bool {
		for _, need := range from.needs {
			i, ok := index[need]
			if !ok || seen[i] {
				continue
			}
			if i == k {
				return true
			}
			seen[i] = true
			if reaches(nodes[i]) {
				return true
			}
		}
		return false
	}
	for _, need := range n.needs {
		if i, ok := index[need]; ok && i != k && reaches(nodes[i]) {
			return true
		}
	}
	return false
}

// fit cuts a name to n characters.
func fit(name string, n int) string {
	name = strings.TrimSpace(name)
	if runes := []rune(name); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return name
}
