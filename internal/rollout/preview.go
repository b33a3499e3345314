package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// Bounds of differences as plain data: what is more is counted, not told.
const (
	maxDifferences = 512 << 10 // bytes of all of them as JSON
	maxFields      = 200       // of one object
)

// unchangeable is said of objects that are refused because of an immutable field.
const unchangeable = "this field cannot change once the object exists"

// Describe renders the manifests of s and returns what [Run] would do with them as plain data, without doing it; see
// [Diff]. It writes the same to out, as `slipway diff` does. When it cannot be found out, the preview says why, too.
func Describe(ctx context.Context, s Step, out io.Writer) (ci.Preview, error) {
	preview := ci.Preview{Name: s.Release.Step, Environment: s.Environment, Namespace: s.Namespace}
	namespace, differences, err := s.differences(ctx, out)
	if err != nil {
		preview.Message = oneLine(masking(s.Mask).text(fault.Of(err).Message))
		return preview, err
	}
	differences.Write(out)
	preview.Namespace = namespace
	preview.Differences, preview.Same, preview.Omitted = differences.data(namespace, s.Mask)
	return preview, differences.Err()
}

// differences returns what [Run] would do, and the namespace of the environment.
func (s Step) differences(ctx context.Context, out io.Writer) (string, Differences, error) {
	request, _, err := s.request(ctx, out)
	if err != nil {
		return "", nil, err
	}
	defer request.Client.Close()
	differences, err := Diff(ctx, request)
	return request.place().Namespace, differences, err
}

// Between returns by what the objects of two releases of an environment in namespace differ, as plain data, and how many
// differences are too much to be told. See [Compare].
func Between(namespace string, before, after []*unstructured.Unstructured) (differences []ci.Difference, omitted int) {
	differences, _, omitted = Compare(before, after).data(namespace, nil)
	return differences, omitted
}

// Compare returns by what the objects of two releases differ. Either may be empty. Values of Secrets are masked.
func Compare(before, after []*unstructured.Unstructured) Differences {
	old := map[string]*unstructured.Unstructured{}
	for _, u := range before {
		old[release.RefOf(u).Key()] = u
	}
	var all Differences
	kept := map[string]bool{}
	for _, u := range after {
		key := release.RefOf(u).Key()
		kept[key] = true
		one := Difference{Object: manifest.Object{Unstructured: u}, Action: Create}
		if was := old[key]; was != nil {
			one.Action, one.Fields = Unchanged, compare(nil, was, u)
			if len(one.Fields) > 0 {
				one.Action = Update
			}
		}
		all = append(all, one)
	}
	for _, u := range before {
		if !kept[release.RefOf(u).Key()] {
			all = append(all, Difference{Object: manifest.Object{Unstructured: u}, Action: Prune})
		}
	}
	return all
}

// masking hides the values of secrets in a text; nil hides nothing.
type masking func(string) string

func (m masking) text(s string) string {
	if m == nil {
		return s
	}
	return m(s)
}

// data returns the differences of an environment in namespace as plain data, without values that mask hides: those of
// objects that do not stay as they are, how many do, and how many differences were too much.
func (d Differences) data(namespace string, mask masking) (differences []ci.Difference, same, omitted int) {
	size := 0
	for _, one := range d {
		if one.Action == Unchanged {
			same++
			continue
		}
		told := one.data(namespace, mask)
		encoded, err := json.Marshal(told)
		if size += len(encoded); err != nil || size > maxDifferences {
			omitted++
			continue
		}
		differences = append(differences, told)
	}
	return differences, same, omitted
}

func (d Difference) data(namespace string, mask masking) ci.Difference {
	told := ci.Difference{Object: mask.text(oneLine(d.Object.String())), Action: string(d.Action), Caution: d.caution()}
	if in := d.Object.GetNamespace(); in != namespace {
		told.Namespace = oneLine(in)
	}
	for i, f := range d.Fields {
		if i == maxFields {
			told.Notes = append(told.Notes, fmt.Sprintf("%d more fields change", len(d.Fields)-maxFields))
			break
		}
		field := ci.Field{Path: mask.text(f.Path), Old: mask.text(f.Old), New: mask.text(f.New), Reason: f.Reason}
		for _, line := range f.Lines {
			field.Lines = append(field.Lines, mask.text(line))
		}
		told.Fields = append(told.Fields, field)
	}
	for _, note := range d.Notes {
		told.Notes = append(told.Notes, mask.text(oneLine(note)))
	}
	if d.Err != nil {
		told.Error = mask.text(oneLine(fault.Of(d.Err).Message))
	}
	return told
}

// caution says what makes a difference one to think about before it is made.
func (d Difference) caution() string {
	kind := d.Object.GroupVersionKind().GroupKind().String()
	switch {
	case d.Action == Prune && kind == "StatefulSet.apps":
		return "It has state: its pods end, and only their claims stay."
	case d.Action == Prune && kind == "CustomResourceDefinition.apiextensions.k8s.io":
		return "All objects of the kind that it defines are deleted with it."
	case d.Action == Prune && precious(d.Object.Unstructured):
		return "Its data is deleted with it."
	case d.Action == Replace && (kind == "StatefulSet.apps" || precious(d.Object.Unstructured)):
		return "It has state, and a field of it cannot change in place: it is deleted and created again."
	case d.Action == Replace && kind != "Job.batch":
		return "A field of it cannot change in place: it is deleted and created again, and is away in between."
	case d.Action == Refuse && d.Err != nil && strings.Contains(fault.Of(d.Err).Message, unchangeable):
		return "A field of it cannot change once the object exists, so nothing at all would be deployed."
	}
	return ""
}
