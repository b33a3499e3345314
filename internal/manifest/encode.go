package manifest

import (
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// Write writes objects as YAML documents, each with a comment that says where it came from.
func Write(w io.Writer, objects []Object) error {
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("encode %s: %w", o, err)
		}
		if _, err := fmt.Fprintf(w, "---\n# %s\n%s", o.Origin, data); err != nil {
			return err
		}
	}
	return nil
}
