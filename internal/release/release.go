// Package release keeps, in the cluster itself, what Slipway must know of an environment there: which objects it may have
// (the inventory), which release serves, the releases so far with their rendered manifests, and who deploys right now.
//
// Start with [Place]. A place's state and its releases are Secrets, because manifests may hold secrets; its lock is a
// Lease. All are in the environment's namespace, so an account of that namespace is enough, and a lost database takes
// nothing with it that is needed to go back.
package release

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
)

// Labels and annotations of the Secrets and Leases.
const (
	kindLabel        = "slipway/record"      // environment or release
	environmentLabel = "slipway/environment" // the slug
	nameAnnotation   = "slipway/environment" // the name as given
	headAnnotation   = "slipway/release"     // a ci.Release as JSON
)

// format is the version of what is stored. It grows when older binaries would misunderstand what newer ones write.
const format = 1

// Bounds of what is stored.
const (
	MaxRecord = 900 << 10 // bytes of a compressed release; a Secret holds 1 MiB
	maxPlain  = 64 << 20  // bytes of an uncompressed one
	// Keep is how many releases are kept in the cluster.
	Keep = 20
)

// Place is an environment in a cluster.
type Place struct {
	Client      *kube.Client
	Namespace   string
	Environment string
	// Repo is the repo that deploys there; empty for what is deployed from terminals. Each repo's part of an environment
	// has its own records and its own lock.
	Repo string
}

// ID names the place within its cluster: namespace/environment, or namespace/environment/repo.
func (p Place) ID() string {
	id := p.Namespace + "/" + p.Environment
	if p.Repo != "" {
		id += "/" + p.Repo
	}
	return id
}

// String names the place for people.
func (p Place) String() string {
	of := ""
	if p.Repo != "" {
		of = p.Repo + " in "
	}
	return fmt.Sprintf("%sthe environment %s of the namespace %s", of, p.Environment, p.Namespace)
}

var (
	plainName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,25}[a-z0-9])?$`)
	odd       = regexp.MustCompile(`[^a-z0-9]+`)
)

// slug is the place as a part of names in Kubernetes, at most 55 bytes long.
func (p Place) slug() string {
	slug := part(p.Environment)
	if p.Repo != "" {
		slug += "." + part(p.Repo)
	}
	return slug
}

// part returns a name if it can be a part of names in Kubernetes, or else what is left of it and a hash.
func part(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	safe := odd.ReplaceAllString(strings.ToLower(name), "-")
	return strings.TrimPrefix(strings.Trim(safe[:min(len(safe), 18)], "-")+"-"+hex.EncodeToString(sum[:4]), "-")
}

func (p Place) stateName() string         { return "slipway." + p.slug() }
func (p Place) recordName(n int64) string { return p.stateName() + "." + strconv.FormatInt(n, 10) }
func (p Place) labels(kind string) map[string]string {
	return map[string]string{"app.kubernetes.io/managed-by": "slipway", kindLabel: kind, environmentLabel: p.slug()}
}

// Ref names an object of the cluster.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// RefOf returns the name of an object.
func RefOf(u *unstructured.Unstructured) Ref {
	gvk := u.GroupVersionKind()
	return Ref{gvk.Group, gvk.Version, gvk.Kind, u.GetNamespace(), u.GetName()}
}

// Key is the same for the same object, also in another version of its kind.
func (r Ref) Key() string { return strings.Join([]string{r.Group, r.Kind, r.Namespace, r.Name}, "/") }

// Object returns an object that has nothing but the name.
func (r Ref) Object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind})
	u.SetNamespace(r.Namespace)
	u.SetName(r.Name)
	return u
}

// Union returns the refs of both, each once.
func Union(a, b []Ref) []Ref {
	return append(slices.Clone(a), Without(b, a)...)
}

// Without returns the refs of a that are not in b.
func Without(a, b []Ref) []Ref {
	there := map[string]bool{}
	for _, r := range b {
		there[r.Key()] = true
	}
	var rest []Ref
	for _, r := range a {
		if !there[r.Key()] {
			rest = append(rest, r)
		}
	}
	return rest
}

// State is how an environment stands.
type State struct {
	Format      int    `json:"format"`
	Environment string `json:"environment"`
	Namespace   string `json:"namespace"`
	Repo        string `json:"repo,omitempty"`
	// Objects is the inventory: all objects that the environment may have, also those of a deployment that did not end.
	Objects []Ref `json:"objects,omitempty"`
	// Current is the number of the release that serves; 0 if none was good yet. Last is the highest number so far.
	Current int64 `json:"current,omitempty"`
	Last    int64 `json:"last,omitempty"`
	// Latest is the release that was begun last, and Pending is true until it has ended.
	Latest  ci.Release `json:"latest,omitzero"`
	Pending bool       `json:"pending,omitempty"`
	// Locked says why nothing may be deployed until somebody has looked; empty if all is well.
	Locked string `json:"locked,omitempty"`
	// Progress is how far the latest release is, if it comes by steps and has not ended, or was left behind.
	Progress *Progress `json:"progress,omitempty"`

	secret *corev1.Secret // nil if there is none
}

// Load returns the state of p; of an environment that was never deployed to, an empty one. An error of the API server
// comes back as it is.
func (p Place) Load(ctx context.Context) (State, error) {
	empty := State{Format: format, Environment: p.Environment, Namespace: p.Namespace, Repo: p.Repo}
	secret, err := p.Client.Core.CoreV1().Secrets(p.Namespace).Get(ctx, p.stateName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return empty, nil
	case err != nil:
		return State{}, err
	}
	return decodeState(secret)
}

func decodeState(secret *corev1.Secret) (State, error) {
	s := State{secret: secret}
	if err := unpack(secret.Data["state"], &s); err != nil {
		return State{}, fault.New(fault.Conflict, "the secret %s in the namespace %s cannot be read as the state of an environment: %w", secret.Name, secret.Namespace, err)
	}
	if s.Format > format {
		return State{}, fault.New(fault.Conflict, "the environment %s was deployed by a newer slipway (its records have format %d, this binary knows %d); use the newer one", s.Environment, s.Format, format)
	}
	return s, nil
}

// Save stores a state that came from Load, and brings it up to date for the next Save. If somebody else saved it in
// between it returns a conflict of the API server; who holds the lock never sees one.
func (p Place) Save(ctx context.Context, s *State) error {
	data, err := pack(s)
	if err != nil {
		return err
	}
	if len(data) > MaxRecord {
		return fault.New(fault.TooLarge, "the list of the objects of %s is too large for a Secret", p)
	}
	secrets := p.Client.Core.CoreV1().Secrets(p.Namespace)
	if s.secret == nil {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: p.stateName(), Labels: p.labels("environment"), Annotations: map[string]string{nameAnnotation: p.Environment}},
			Type:       "slipway/environment",
			Data:       map[string][]byte{"state": data},
		}
		s.secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: "slipway"})
		if err != nil {
			s.secret = nil
		}
		return err
	}
	changed := s.secret.DeepCopy()
	changed.Data = map[string][]byte{"state": data}
	saved, err := secrets.Update(ctx, changed, metav1.UpdateOptions{FieldManager: "slipway"})
	if err == nil {
		s.secret = saved
	}
	return err
}

// Unlock allows deployments to p again after one could not be rolled back.
func (p Place) Unlock(ctx context.Context) error {
	s, err := p.Load(ctx)
	if err != nil {
		return err
	}
	if s.Locked == "" {
		return fault.New(fault.Conflict, "%s is not locked", p)
	}
	s.Locked = ""
	return p.Save(ctx, &s)
}

// Environments returns the states of all environments of a namespace, or of the whole cluster if namespace is empty, by
// name. Those that cannot be read are left out.
func Environments(ctx context.Context, c *kube.Client, namespace string) ([]State, error) {
	list, err := c.Core.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: kindLabel + "=environment"})
	if err != nil {
		return nil, err
	}
	var states []State
	for i := range list.Items {
		if s, err := decodeState(&list.Items[i]); err == nil {
			states = append(states, s)
		}
	}
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Environment, b.Environment), strings.Compare(a.Repo, b.Repo))
	})
	return states, nil
}

// Record is a release with its rendered manifests.
type Record struct {
	Format int `json:"format"`
	ci.Release
	Objects []*unstructured.Unstructured `json:"objects"`
	// Heal is true if what comes to differ from it shall be put back, as the policy said when it was deployed.
	Heal bool `json:"heal,omitempty"`
}

// Fits returns an error if the objects are too many to be kept as a release, and else their digest.
func Fits(objects []*unstructured.Unstructured) (digest string, err error) {
	plain, err := json.Marshal(objects)
	if err != nil {
		return "", fmt.Errorf("encode the manifests: %w", err)
	}
	data, err := pack(objects)
	if err != nil {
		return "", err
	}
	if len(data) > MaxRecord-64<<10 { // the rest is for what else is in a record
		return "", fault.New(fault.TooLarge, "the rendered manifests are %d KiB when compressed, and a release keeps at most %d KiB of them in the cluster; split them into two environments", len(data)>>10, (MaxRecord-64<<10)>>10)
	}
	sum := sha256.Sum256(plain)
	return hex.EncodeToString(sum[:]), nil
}

// Put stores the record of a release that has ended. One of the same number that is there already stays as it is:
// records never change.
func (p Place) Put(ctx context.Context, r Record) error {
	r.Format = format
	data, err := pack(r)
	if err != nil {
		return err
	}
	head, err := json.Marshal(r.Release)
	if err != nil {
		return fmt.Errorf("encode a release: %w", err)
	}
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.recordName(r.Number), Labels: p.labels("release"),
			Annotations: map[string]string{nameAnnotation: p.Environment, headAnnotation: string(head)},
		},
		Type:      "slipway/release",
		Immutable: &immutable,
		Data:      map[string][]byte{"release": data},
	}
	_, err = p.Client.Core.CoreV1().Secrets(p.Namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: "slipway"})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Find returns the record of a release.
func (p Place) Find(ctx context.Context, number int64) (Record, error) {
	secret, err := p.Client.Core.CoreV1().Secrets(p.Namespace).Get(ctx, p.recordName(number), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Record{}, fault.New(fault.NotFound, "%s has no release %d (any more); the cluster keeps the newest %d, and slipway env history lists them", p, number, Keep)
	case err != nil:
		return Record{}, err
	}
	var r Record
	if err := unpack(secret.Data["release"], &r); err != nil {
		return Record{}, fault.New(fault.Conflict, "the record of release %d of %s cannot be read: %w", number, p, err)
	}
	if r.Format > format {
		return Record{}, fault.New(fault.Conflict, "release %d of %s was recorded by a newer slipway (format %d, this binary knows %d); use the newer one", number, p, r.Format, format)
	}
	return r, nil
}

// History returns the releases of p without their manifests, newest first.
func (p Place) History(ctx context.Context) ([]ci.Release, error) {
	// Only the metadata: the manifests may be megabytes.
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "SecretList"})
	err := p.Client.Objects.List(ctx, list, client.InNamespace(p.Namespace), client.MatchingLabels{kindLabel: "release", environmentLabel: p.slug()})
	if err != nil {
		return nil, err
	}
	var releases []ci.Release
	for _, item := range list.Items {
		var r ci.Release
		if json.Unmarshal([]byte(item.Annotations[headAnnotation]), &r) == nil && r.Number > 0 {
			releases = append(releases, r)
		}
	}
	slices.SortFunc(releases, func(a, b ci.Release) int { return cmp.Compare(b.Number, a.Number) })
	return releases, nil
}

// Trim deletes the oldest records, so that [Keep] are left. That of keep, the release that serves, stays.
func (p Place) Trim(ctx context.Context, keep int64) error {
	releases, err := p.History(ctx)
	if err != nil {
		return err
	}
	for _, r := range releases[min(Keep, len(releases)):] {
		if r.Number == keep {
			continue
		}
		err := p.Client.Core.CoreV1().Secrets(p.Namespace).Delete(ctx, p.recordName(r.Number), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// Remove removes all records of p but its lock: the releases first, so that what a crash leaves is found again. Then nothing can go
// back any more.
func (p Place) Remove(ctx context.Context) error {
	secrets := p.Client.Core.CoreV1().Secrets(p.Namespace)
	for _, kind := range []string{"release", "environment"} {
		list, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: kindLabel + "=" + kind + "," + environmentLabel + "=" + p.slug()})
		if err != nil {
			return err
		}
		for _, secret := range list.Items {
			if err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// pack returns a value as compressed JSON.
func pack(value any) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return b.Bytes(), nil
}

// unpack reads what pack wrote. Whoever may write Secrets in the namespace may have written it.
func unpack(data []byte, value any) error {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlain+1))
	if err != nil {
		return err
	}
	if len(plain) > maxPlain {
		return fmt.Errorf("it is larger than %d MiB", maxPlain>>20)
	}
	return json.Unmarshal(plain, value)
}
