package release

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"slipway/internal/fault"
)

// Encode returns the rendered manifests of a release as they are kept outside of the cluster, compressed. They may hold
// secrets.
func Encode(objects []*unstructured.Unstructured) ([]byte, error) { return pack(objects) }

// Decode returns what Encode was given. Whoever runs a runner may have made the data: it is bounded.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	if err := unpack(data, &objects); err != nil {
		return nil, fault.New(fault.Conflict, "the manifests of the release cannot be read: %w", err)
	}
	for _, o := range objects {
		if o == nil || o.Object == nil {
			return nil, fault.New(fault.Conflict, "the manifests of the release cannot be read: one of them is empty")
		}
	}
	return objects, nil
}

// Document is one object of a release, for people.
type Document struct {
	// Name is kind/name; Namespace is empty for what belongs to no namespace.
	Name, Namespace string
	// YAML is the manifest. Values of Secrets are masked.
	YAML string
}

// mask stands for a value of a Secret.
const mask = "(secret)"

// lastApplied is where kubectl keeps a copy of the whole object, secrets included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Documents returns the manifests of objects, masked, in their order.
func Documents(objects []*unstructured.Unstructured) ([]Document, error) {
	documents := make([]Document, len(objects))
	for i, o := range objects {
		shown := o
		if o.GroupVersionKind().GroupKind().String() == "Secret" {
			shown = masked(o)
		}
		text, err := yaml.Marshal(shown.Object)
		if err != nil {
			return nil, fmt.Errorf("write the manifest of %s: %w", o.GetName(), err)
		}
		documents[i] = Document{Name: strings.ToLower(o.GetKind()) + "/" + o.GetName(), Namespace: o.GetNamespace(), YAML: string(text)}
	}
	return documents, nil
}

// masked returns a copy of a Secret that keeps its secrets.
func masked(secret *unstructured.Unstructured) *unstructured.Unstructured {
	secret = secret.DeepCopy()
	for _, field := range []string{"data", "stringData"} {
		switch values := secret.Object[field].(type) {
		case nil:
		case map[string]any:
			for key := range values {
				values[key] = mask
			}
		default: // nothing that the cluster would take
			secret.Object[field] = mask
		}
	}
	annotations := secret.GetAnnotations()
	if _, ok := annotations[lastApplied]; ok {
		annotations[lastApplied] = mask
		secret.SetAnnotations(annotations)
	}
	return secret
}
