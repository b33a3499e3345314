package rollout

import (
	"encoding/json"
	"strings"
)

// managedPaths returns the leaves of a fieldset in the form of managedFields (fieldsV1), as people write them; see
// "Field management" in the Kubernetes documentation of server-side apply. What cannot be read gives nothing.
func managedPaths(raw []byte) []string {
	var root map[string]any
	if json.Unmarshal(raw, &root) != nil {
		return nil
	}
	var paths []string
	collectPaths("", root, &paths)
	return paths
}

func collectPaths(path string, fields map[string]any, paths *[]string) {
	leaf := true
	for key, value := range fields {
		kind, name, _ := strings.Cut(key, ":")
		below, _ := value.(map[string]any)
		switch kind {
		case "f":
			leaf = false
			collectPaths(join(path, name), below, paths)
		case "k":
			leaf = false
			collectPaths(path+"["+keyName(name)+"]", below, paths)
		case "v", "i":
			leaf = false
			*paths = append(*paths, path+"["+oneLine(name)+"]")
		}
	}
	if leaf && path != "" {
		*paths = append(*paths, path)
	}
}

// keyName returns how an element of a list is called: by its name if that is its key.
func keyName(key string) string {
	var keys map[string]any
	if json.Unmarshal([]byte(key), &keys) == nil && len(keys) == 1 {
		if name, ok := keys["name"].(string); ok {
			return oneLine(name)
		}
	}
	return oneLine(key)
}
