package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"strings"

	"slipway/internal/store"
)

// The media types of manifests (image-spec, "Media Types"; Docker's
// https://distribution.github.io/distribution/spec/manifest-v2-2/).
const (
	mediaImage      = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex      = "application/vnd.oci.image.index.v1+json"
	mediaDocker     = "application/vnd.docker.distribution.manifest.v2+json"
	mediaDockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

const (
	// maxManifest is the most bytes of a manifest; the spec wants 4 MiB at least ("Pushing Manifests").
	maxManifest = 4 << 20
	// maxDescriptors bounds what one manifest makes the database do.
	maxDescriptors = 4096
)

// descriptor points at a blob or manifest (image-spec, "Descriptor").
type descriptor struct {
	MediaType    string          `json:"mediaType"`
	Digest       string          `json:"digest"`
	Size         int64           `json:"size"`
	ArtifactType string          `json:"artifactType,omitempty"`
	Annotations  json.RawMessage `json:"annotations,omitempty"`
}

// elsewhere reports whether the bytes need not be here: layers that may not be distributed are fetched from the URLs in
// their descriptor (image-spec, "Non-Distributable Layers").
func (d descriptor) elsewhere() bool {
	return strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.")
}

// parseManifest reads a manifest that was sent as contentType, and checks it. The result lacks what the body does not
// say: repository, digest, time and person. Its error is a sentence for the client.
func parseManifest(contentType string, content []byte) (store.Manifest, error) {
	var body struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *descriptor       `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Manifests     []descriptor      `json:"manifests"`
		Subject       *descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(content, &body); err != nil {
		return store.Manifest{}, fmt.Errorf("the manifest is not valid JSON: %w", err)
	}
	if err := checkKeys(content); err != nil {
		return store.Manifest{}, err
	}
	mediaType, err := manifestType(contentType, body.MediaType)
	if err != nil {
		return store.Manifest{}, err
	}
	if body.SchemaVersion != 2 {
		return store.Manifest{}, fmt.Errorf("the manifest has schemaVersion %d, and only 2 is served", body.SchemaVersion)
	}
	if len(body.Layers)+len(body.Manifests) >= maxDescriptors {
		return store.Manifest{}, fmt.Errorf("the manifest has %d descriptors, and may have %d", len(body.Layers)+len(body.Manifests), maxDescriptors)
	}

	m := store.Manifest{MediaType: mediaType, ArtifactType: body.ArtifactType, Content: content, Size: int64(len(content))}
	switch mediaType {
	case mediaImage, mediaDocker:
		if body.Config == nil {
			return store.Manifest{}, fmt.Errorf("the manifest has no config")
		}
		if len(body.Manifests) > 0 {
			return store.Manifest{}, fmt.Errorf("a manifest of type %s cannot have manifests", mediaType)
		}
		if m.ArtifactType == "" {
			m.ArtifactType = body.Config.MediaType
		}
		err = refer(&m, "config", *body.Config)
		if err == nil {
			err = refer(&m, "layers", body.Layers...)
		}
	case mediaIndex, mediaDockerList:
		if body.Config != nil || len(body.Layers) > 0 {
			return store.Manifest{}, fmt.Errorf("a manifest of type %s cannot have a config or layers", mediaType)
		}
		err = refer(&m, "manifests", body.Manifests...)
	}
	if err != nil {
		return store.Manifest{}, err
	}
	if len(m.ArtifactType) > 512 || strings.ContainsFunc(m.ArtifactType, unprintable) {
		return store.Manifest{}, fmt.Errorf("the artifact type %.100q is not a media type", m.ArtifactType)
	}
	if body.Subject != nil {
		if err := checkSubject(body.Subject.Digest); err != nil {
			return store.Manifest{}, fmt.Errorf("subject: %w", err)
		}
		m.Subject = body.Subject.Digest
	}
	if len(body.Annotations) > 0 {
		if m.Annotations, err = json.Marshal(body.Annotations); err != nil {
			return store.Manifest{}, err
		}
	}
	return m, nil
}

// manifestType returns the media type that the header and the body agree on (spec, "Pushing Manifests"). Old OCI images
// have none in the body, and the header's parameters mean nothing.
func manifestType(header, body string) (string, error) {
	mediaType := body
	if header != "" {
		parsed, _, err := mime.ParseMediaType(header)
		if err != nil {
			return "", fmt.Errorf("the Content-Type %.100q is not a media type", header)
		}
		mediaType = parsed
		if body != "" && body != parsed {
			return "", fmt.Errorf("the Content-Type says %.100q and the manifest %.100q", parsed, body)
		}
	}
	if isManifest(mediaType) {
		return mediaType, nil
	}
	return "", fmt.Errorf("manifests of type %.100q are not served; OCI image manifests and indexes and Docker's schema 2 are", mediaType)
}

// isManifest reports whether that is a type of manifests, all of which are known here.
func isManifest(mediaType string) bool {
	switch mediaType {
	case mediaImage, mediaIndex, mediaDocker, mediaDockerList:
		return true
	}
	return false
}

// refer adds what must be in the repository to the references of m, each once. What an index has of another type than those
// of manifests cannot be one here, and is a blob: caches of builds are such indexes.
func refer(m *store.Manifest, field string, descriptors ...descriptor) error {
	seen := make(map[string]int64, len(descriptors))
	for i, d := range descriptors {
		where := field
		if field != "config" {
			where = fmt.Sprintf("%s[%d]", field, i)
		}
		if _, err := parseDigest(d.Digest); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if d.Size < 0 {
			return fmt.Errorf("%s: the size is %d", where, d.Size)
		}
		if d.elsewhere() {
			continue
		}
		if size, ok := seen[d.Digest]; ok {
			if size != d.Size {
				return fmt.Errorf("%s: %s has the size %d here and %d before", where, d.Digest, d.Size, size)
			}
			continue
		}
		seen[d.Digest] = d.Size
		manifest := field == "manifests" && (d.MediaType == "" || isManifest(d.MediaType))
		m.References = append(m.References, store.Reference{Digest: d.Digest, Size: d.Size, Manifest: manifest})
	}
	return nil
}
