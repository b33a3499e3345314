package api_test

import (
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/release"
)

// Releases are for who may see their repo, manifests for who may change it, and importing is for admins.
func TestReleases(t *testing.T) {
	f := newFixture(t)
	admin, repo, other, nobody := f.as(t, "admin"), f.as(t, "repo:ada/open"), f.as(t, "repo:eve/other"), f.as(t, "")
	manifests := func(value string) []byte {
		t.Helper()
		data, err := release.Encode([]*unstructured.Unstructured{{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "database", "namespace": "shop"}, "stringData": map[string]any{"password": value},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	start := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	of := func(name string, number int64, image string) api.FoundRelease {
		return api.FoundRelease{Manifests: manifests(image), Release: ci.Release{
			Repo: name, Environment: "review/x", Namespace: "shop", Number: number, Status: ci.Success,
			Started: start.Add(time.Duration(number) * time.Minute), Finished: start.Add(time.Duration(number)*time.Minute + time.Second), Images: []string{image},
		}}
	}
	for _, one := range []api.FoundRelease{of("ada/open", 1, "r/a@sha256:1"), of("ada/open", 2, "r/a@sha256:2"), of("ada/engine", 1, "r/b@sha256:2")} {
		for range 2 {
			if err := admin.ImportRelease(t.Context(), one); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(err error, code fault.Code) {
		t.Helper()
		if err == nil && code != "" || err != nil && fault.Of(err).Code != code {
			t.Errorf("%v, want code %q", err, code)
		}
	}
	want(repo.ImportRelease(t.Context(), of("ada/open", 3, "x")), fault.Forbidden)
	want(nobody.ImportRelease(t.Context(), of("ada/open", 3, "x")), fault.Unauthorized)
	want(admin.ImportRelease(t.Context(), of("no/body", 3, "x")), fault.NotFound)
	broken := of("ada/open", 3, "x")
	broken.Manifests = []byte("not compressed")
	want(admin.ImportRelease(t.Context(), broken), fault.Invalid)
	broken = of("ada/open", 3, "x")
	broken.Release.Status = ci.Running
	want(admin.ImportRelease(t.Context(), broken), fault.Invalid)

	numbers := func(all []ci.Release, err error) (numbers []int64) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			numbers = append(numbers, r.Number)
		}
		return numbers
	}
	if got := numbers(nobody.Releases(t.Context(), "", api.ReleaseListing{})); !reflect.DeepEqual(got, []int64{2, 1}) { // ada/engine is private
		t.Errorf("nobody sees %v", got)
	}
	if got := numbers(admin.Releases(t.Context(), "", api.ReleaseListing{Image: "sha256:2"})); len(got) != 2 {
		t.Errorf("an admin sees %v with the image", got)
	}
	if got := numbers(nobody.Releases(t.Context(), "", api.ReleaseListing{Image: "sha256:2"})); len(got) != 1 {
		t.Errorf("nobody sees %v with the image", got)
	}
	_, err := nobody.Releases(t.Context(), "ada/engine", api.ReleaseListing{})
	want(err, fault.NotFound)
	all, err := nobody.Releases(t.Context(), "ada/open", api.ReleaseListing{Environment: "review/x", Namespace: "shop", Limit: 1})
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	two := all[0]
	got, err := nobody.Release(t.Context(), "ada/open", two.ID)
	if err != nil || !reflect.DeepEqual(got, two) {
		t.Errorf("the release is %+v, %v, want %+v", got, err, two)
	}
	_, err = nobody.Release(t.Context(), "ada/open", 12345)
	want(err, fault.NotFound)

	_, err = nobody.Manifests(t.Context(), "ada/open", two.ID)
	want(err, fault.Unauthorized)
	_, err = other.DiffRelease(t.Context(), "ada/open", two.ID, 0)
	want(err, fault.Forbidden)
	shown, err := repo.Manifests(t.Context(), "ada/open", two.ID)
	if err != nil || len(shown) != 1 || shown[0].Name != "secret/database" || shown[0].YAML != "apiVersion: v1\nkind: Secret\nmetadata:\n  name: database\n  namespace: shop\nstringData:\n  password: (secret)\n" {
		t.Errorf("the manifests are %+v, %v", shown, err)
	}
	diff, err := repo.DiffRelease(t.Context(), "ada/open", two.ID, 0)
	if err != nil || diff.From == nil || diff.From.Number != 1 || len(diff.Differences) != 1 || diff.Differences[0].Fields[0].New != "(secret)" {
		t.Errorf("the diff is %+v, %v", diff, err)
	}
	first, err := repo.DiffRelease(t.Context(), "ada/open", diff.From.ID, 0)
	if err != nil || first.From != nil || len(first.Differences) != 1 || first.Differences[0].Action != "create" {
		t.Errorf("the diff of the first is %+v, %v", first, err)
	}
	previews, err := f.as(t, "admin").Previews(t.Context(), "ada/engine", f.Push("kind: pipeline\ntype: docker\nname: t\nsteps: [{name: a, image: busybox, commands: [x]}]\n").Number)
	if err != nil || previews == nil || len(previews) != 0 {
		t.Errorf("the previews are %v, %v", previews, err)
	}
}
