package source

import (
	"bytes"
	"testing"

	"go.yaml.in/yaml/v3"
)

// FuzzFill holds that a variable never changes what a document is made of: only texts change, and what is written is read
// again as it is.
func FuzzFill(f *testing.F) {
	f.Add("a: ${X}\nb: [\"${X}\", '$${X}', ${Y}]\n", "3")
	f.Add("a: |\n  echo ${X}\n${X}: &a >-\n  ${X}\nc: *a\n", "a: b\n- c\n# d")
	f.Add("a: !!str ${X}\nb: !t ${X} # ${X}\n", "yes")
	f.Add("- ${X}\n- {a: b, <<: {c: x${X}}}\n", "\u0085\x01'\"%")
	f.Fuzz(func(t *testing.T, text, value string) {
		docs, err := Documents([]byte(text))
		if err != nil || len(docs) != 1 || CheckNode(docs[0]) != nil {
			return
		}
		before := shape(docs[0])
		filled, err := Fill(docs[0], map[string]string{"X": value})
		if err != nil {
			return
		}
		if !filled {
			if shape(docs[0]) != before {
				t.Fatal("it says that it filled in nothing")
			}
			return
		}
		if kinds(docs[0]) != kinds(must(t, text)) {
			t.Fatalf("the structure of %q changed by %q", text, value)
		}
		data, err := Encode(docs[0])
		if err != nil {
			return // such as a value that is not UTF-8
		}
		again, err := Documents(data)
		if err != nil || len(again) != 1 {
			t.Skip("the library cannot read what it writes; see what the API server gets")
		}
		if kinds(again[0]) != kinds(docs[0]) {
			t.Errorf("%q with %q is written as %q, which has another structure", text, value, data)
		}
	})
}

func must(t *testing.T, text string) *yaml.Node {
	docs, err := Documents([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return docs[0]
}

// kinds writes down what a document is made of, without texts.
func kinds(n *yaml.Node) string {
	out := string(rune('0' + n.Kind))
	for _, c := range n.Content {
		out += kinds(c)
	}
	return out + ")"
}

// shape writes a document down with its texts.
func shape(n *yaml.Node) string {
	var out bytes.Buffer
	out.WriteString(kinds(n) + n.Value + n.Tag)
	for _, c := range n.Content {
		out.WriteString(shape(c))
	}
	return out.String()
}
