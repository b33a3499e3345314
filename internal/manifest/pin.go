package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"slipway/internal/ci"
)

// Images says which images of the manifests are replaced by which references. The rules are those of docs/deploy.md:
//
//  1. An image whose name is a key of Named becomes that reference.
//  2. An image with a digest stays as it is.
//  3. An image of a repository that the run pushed to becomes the digest that the run pushed: that of the same tag if
//     there is one, else the only one there is. Two candidates are an error.
//  4. Any other image stays as it is.
//
// Every result of rules 1 and 3 that the run pushed carries its digest.
type Images struct {
	// Named maps the name of an image as the manifests write it, without tag and digest, to a reference. Names are
	// compared in full, that is with docker.io/library/ where it may be left out. A name that no manifest uses is an
	// error.
	Named map[string]string
	// Pushed is what the run pushed, oldest first.
	Pushed []ci.Image
}

// Pin is an image that was replaced.
type Pin struct {
	// From is the image as the manifest has it, To what it became.
	From, To string
	// Pushed is the reference that the run pushed it as; empty if it pushed no such image.
	Pushed string
}

// String says what happened in one line.
func (p Pin) String() string {
	if p.Pushed == "" {
		return fmt.Sprintf("image %s is %s", p.From, p.To)
	}
	return fmt.Sprintf("image %s is %s, pushed by this run as %s", p.From, p.To, p.Pushed)
}

// pushed is one image that the run pushed.
type pushed struct{ ref, tag, digest string }

// pinner decides what becomes of an image.
type pinner struct {
	named  map[string]string   // normalised name -> reference
	used   map[string]bool     // those of named that were used
	pushed map[string][]pushed // normalised repository -> what was pushed there
}

// pin replaces the images of all pod templates in objects.
func pin(objects []Object, images Images) ([]Pin, Problems) {
	p, problems := newPinner(images)
	pins := map[Pin]bool{}
	names := map[string]bool{}
	for _, o := range objects {
		for _, field := range imageFields(o.Object, o.GroupVersionKind().GroupKind()) {
			from := field.get()
			made, err := p.pin(from)
			if err != nil {
				problems = append(problems, Problem{o.Origin, fmt.Sprintf("%s: %v", o, err)})
				continue
			}
			if named, err := reference.ParseNormalizedNamed(from); err == nil {
				names[reference.FamiliarName(named)] = true
			}
			if made.To != from {
				field.set(made.To)
				pins[made] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(images.Named)) {
		if key, err := normalName(name); err == nil && !p.used[key] {
			problems = append(problems, Problem{Position{File: "images"}, fmt.Sprintf("no manifest has an image named %s; they have %s",
				name, cmp.Or(strings.Join(slices.Sorted(maps.Keys(names)), ", "), "none"))})
		}
	}
	return slices.SortedFunc(maps.Keys(pins), func(a, b Pin) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	}), problems
}

func newPinner(images Images) (*pinner, Problems) {
	p := &pinner{named: map[string]string{}, used: map[string]bool{}, pushed: map[string][]pushed{}}
	var problems Problems
	fail := func(format string, args ...any) {
		problems = append(problems, Problem{Position{File: "images"}, fmt.Sprintf(format, args...)})
	}
	for _, image := range images.Pushed {
		named, err := reference.ParseNormalizedNamed(image.Ref)
		if err != nil {
			fail("the run pushed %q, which is no image reference: %v", image.Ref, err)
			continue
		}
		tag := ""
		if t, ok := named.(reference.Tagged); ok {
			tag = t.Tag()
		}
		p.pushed[named.Name()] = append(p.pushed[named.Name()], pushed{image.Ref, tag, image.Digest})
	}
	for _, name := range slices.Sorted(maps.Keys(images.Named)) {
		key, err := normalName(name)
		switch {
		case err != nil:
			fail("%v", err)
		case p.named[key] != "":
			fail("%s is there twice, written in two ways", name)
		case images.Named[name] == "":
			fail("there is no reference for %s", name)
		default:
			p.named[key] = images.Named[name]
		}
	}
	return p, problems
}

// normalName returns the full name of an image that is written without tag and digest.
func normalName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("%q is not the name of an image: %w", name, err)
	}
	if !reference.IsNameOnly(named) {
		return "", fmt.Errorf("%s has a tag or a digest; write only the name, %s, which stands for all of its tags", name, reference.FamiliarName(named))
	}
	return named.Name(), nil
}

// pin returns what becomes of the image from.
func (p *pinner) pin(from string) (Pin, error) {
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return Pin{}, fmt.Errorf("%q is not an image reference: %w", from, err)
	}
	if to, ok := p.named[named.Name()]; ok {
		p.used[named.Name()] = true
		target, err := reference.ParseNormalizedNamed(to)
		if err != nil {
			return Pin{}, fmt.Errorf("images has %q for %s, which is not an image reference: %w", to, from, err)
		}
		return p.digest(from, to, target)
	}
	return p.digest(from, from, named)
}

// digest returns the Pin of an image that from became, written as to and parsed as named.
func (p *pinner) digest(from, to string, named reference.Named) (Pin, error) {
	if _, ok := named.(reference.Digested); ok {
		return Pin{From: from, To: to}, nil
	}
	candidates := p.pushed[named.Name()]
	if tagged, ok := named.(reference.Tagged); ok {
		same := slices.DeleteFunc(slices.Clone(candidates), func(c pushed) bool { return c.tag != tagged.Tag() })
		if len(same) > 0 {
			candidates = same
		}
	}
	if len(candidates) == 0 {
		return Pin{From: from, To: to}, nil
	}
	chosen := candidates[len(candidates)-1]
	for _, c := range candidates {
		if c.digest != chosen.digest {
			return Pin{}, fmt.Errorf("the image %s could be %s (%s) or %s (%s), which this run pushed both; write the tag that is meant",
				to, c.ref, c.digest, chosen.ref, chosen.digest)
		}
	}
	return Pin{From: from, To: reference.FamiliarName(named) + "@" + chosen.digest, Pushed: chosen.ref}, nil
}
