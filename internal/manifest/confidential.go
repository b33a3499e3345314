package manifest

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// minConfidential is the length from which on a confidential value is looked for. What is shorter, such as the name of a
// database or of its user, is in manifests by chance.
const minConfidential = 10

// confidential finds confidential values outside of Secrets, where everybody who may look at the object would read them,
// and diffs would show them.
func (r *rendering) confidential() {
	var values []string
	for _, v := range r.source.Confidential {
		if v = strings.TrimSpace(v); len(v) >= minConfidential {
			values = append(values, v, base64.StdEncoding.EncodeToString([]byte(v)))
		}
	}
	if len(values) == 0 {
		return
	}
	for _, o := range r.objects {
		if o.GetAPIVersion() == "v1" && o.GetKind() == "Secret" {
			continue
		}
		if at, found := find(o.Object, values); found {
			r.fail(o.Origin, "%s would show the value of a secret in %s; only objects of the kind Secret may hold it, so put it into one and refer to that", o, strings.TrimPrefix(at, "."))
		}
	}
}

// find returns where in a value one of the texts is.
func find(value any, texts []string) (at string, found bool) {
	has := func(s string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(s, text) })
	}
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			if has(key) {
				return ".(a key)", true
			}
			if at, found := find(v, texts); found {
				return "." + key + at, true
			}
		}
		return "", false
	case []any:
		for i, v := range value {
			if at, found := find(v, texts); found {
				return fmt.Sprintf("[%d]", i) + at, true
			}
		}
		return "", false
	case nil:
		return "", false
	}
	return "", has(fmt.Sprint(value))
}
