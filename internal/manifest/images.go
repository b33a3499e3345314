package manifest

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// podSpecs says where the pod specification is in the kinds that have one.
var podSpecs = map[schema.GroupKind][]string{
	{Kind: "Pod"}:                        {"spec"},
	{Kind: "PodTemplate"}:                {"template", "spec"},
	{Kind: "ReplicationController"}:      {"spec", "template", "spec"},
	{Group: "apps", Kind: "Deployment"}:  {"spec", "template", "spec"},
	{Group: "apps", Kind: "StatefulSet"}: {"spec", "template", "spec"},
	{Group: "apps", Kind: "DaemonSet"}:   {"spec", "template", "spec"},
	{Group: "apps", Kind: "ReplicaSet"}:  {"spec", "template", "spec"},
	{Group: "batch", Kind: "Job"}:        {"spec", "template", "spec"},
	{Group: "batch", Kind: "CronJob"}:    {"spec", "jobTemplate", "spec", "template", "spec"},
}

// imageField is the place of an image reference in an object.
type imageField struct {
	in  map[string]any
	key string
}

func (f imageField) get() string      { return f.in[f.key].(string) }
func (f imageField) set(image string) { f.in[f.key] = image }

// imageFields returns the places of all images that the pods of an object use: those of containers of each kind, and
// those that are mounted as volumes.
func imageFields(object map[string]any, kind schema.GroupKind) []imageField {
	path, ok := podSpecs[kind]
	if !ok {
		return nil
	}
	spec := object
	for _, key := range path {
		if spec, ok = spec[key].(map[string]any); !ok {
			return nil
		}
	}
	var fields []imageField
	add := func(in any, key string) {
		if m, ok := in.(map[string]any); ok {
			if image, ok := m[key].(string); ok && image != "" {
				fields = append(fields, imageField{m, key})
			}
		}
	}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		containers, _ := spec[list].([]any)
		for _, container := range containers {
			add(container, "image")
		}
	}
	volumes, _ := spec["volumes"].([]any)
	for _, volume := range volumes {
		if m, ok := volume.(map[string]any); ok {
			add(m["image"], "reference")
		}
	}
	return fields
}

// ImagesOf returns the references of all images that the pods of objects use, sorted, each once.
func ImagesOf(objects []Object) []string {
	var images []string
	for _, o := range objects {
		for _, field := range imageFields(o.Object, o.GroupVersionKind().GroupKind()) {
			images = append(images, field.get())
		}
	}
	slices.Sort(images)
	return slices.Compact(images)
}
