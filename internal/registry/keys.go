package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// checkKeys refuses JSON that readers would read differently: some take the first of two equal keys and some the last, and
// some take Layers for layers. What is kept of an image is what this reader sees that it needs, and what a client runs must
// be that. Content is valid JSON, which encoding/json has found not to be nested too deep.
func checkKeys(content []byte) error {
	return readValue(json.NewDecoder(bytes.NewReader(content)), ofManifest)
}

// place says what the names of an object's fields mean.
type place int

const (
	ofManifest place = iota
	ofDescriptor
	ofOther // nothing, here
)

// manifestFields are those that decide what a manifest or a descriptor is and needs.
var manifestFields = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest", "size", "urls", "data", "platform",
}

// readValue reads a value with all that is in it, and looks at the keys.
func readValue(d *json.Decoder, at place) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('['):
		for d.More() {
			if err := readValue(d, at); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			token, err := d.Token()
			if err != nil {
				return err
			}
			key, _ := token.(string) // nothing else can be one
			if seen[key] {
				return fmt.Errorf("the manifest has the key %.100q twice in one object", key)
			}
			seen[key] = true
			if at != ofOther && !slices.Contains(manifestFields, key) {
				if i := slices.IndexFunc(manifestFields, func(field string) bool { return strings.EqualFold(field, key) }); i >= 0 {
					return fmt.Errorf("the manifest has the key %.100q, which some readers take for %s; write that", key, manifestFields[i])
				}
			}
			below := ofOther
			if at == ofManifest && slices.Contains([]string{"config", "layers", "manifests", "subject"}, key) {
				below = ofDescriptor
			}
			if err := readValue(d, below); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token() // its end
	return err
}
