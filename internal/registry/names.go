package registry

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// maxName is the most bytes of a repository's name: what fits, with a host name before it, into the 255 characters that
// clients take (spec, "Pulling manifests").
const maxName = 229

// The grammar of names (spec, "Pulling manifests").
var (
	namePattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func validName(s string) bool { return len(s) <= maxName && namePattern.MatchString(s) }

func validTag(s string) bool { return tagPattern.MatchString(s) }

// digest is the hash of some bytes in one of the two algorithms that are registered (image-spec, "Digests"). Its zero
// value is no digest.
type digest struct{ algorithm, hex string }

func (d digest) String() string { return d.algorithm + ":" + d.hex }

func parseDigest(s string) (digest, error) {
	algorithm, digits, ok := strings.Cut(s, ":")
	if !ok {
		return digest{}, fmt.Errorf("%.200q is not a digest, which looks like sha256:<64 hexadecimal digits>", s)
	}
	h := newHash(algorithm)
	if h == nil {
		return digest{}, fmt.Errorf("the digest algorithm %.50q is not sha256 or sha512", algorithm)
	}
	if len(digits) != 2*h.Size() || strings.Trim(digits, "0123456789abcdef") != "" {
		return digest{}, fmt.Errorf("a %s digest has %d lower-case hexadecimal digits", algorithm, 2*h.Size())
	}
	return digest{algorithm, digits}, nil
}

// digestPattern is the grammar of digests of any algorithm (image-spec, "Digests").
var digestPattern = regexp.MustCompile(`^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)

// checkSubject says what is wrong with the digest of a subject. As that need not be here, its algorithm may be one that is
// not known here.
func checkSubject(s string) error {
	algorithm, _, _ := strings.Cut(s, ":")
	if newHash(algorithm) == nil && len(s) <= 512 && digestPattern.MatchString(s) {
		return nil
	}
	_, err := parseDigest(s)
	return err
}

// newHash returns nil for an algorithm that is not supported.
func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// digestOf returns the digest of content.
func digestOf(algorithm string, content []byte) digest {
	h := newHash(algorithm)
	h.Write(content)
	return digest{algorithm, hex.EncodeToString(h.Sum(nil))}
}

// The kinds of a route. Their names are those of the path, where it has one.
const (
	kindBlob      = "blobs"
	kindManifest  = "manifests"
	kindReferrers = "referrers"
	kindTags      = "tags"
	kindUploads   = "uploads" // starting an upload
	kindUpload    = "upload"  // a started one
	kindCatalog   = "catalog"
)

// route is what a path under /v2/ names.
type route struct {
	kind string
	// name is the repository; ref the tag, digest or upload. Neither is validated.
	name, ref string
}

// parseRoute reads a path. A repository may be called "manifests" or "a/blobs/b", so the path is read from its end.
func parseRoute(path string) (route, bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{}, false
	}
	if rest == "_catalog" {
		return route{kind: kindCatalog}, true
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return route{kind: kindTags, name: name}, true
	}
	for _, end := range []string{"/blobs/uploads/", "/blobs/uploads"} {
		if name, ok := strings.CutSuffix(rest, end); ok {
			return route{kind: kindUploads, name: name}, true
		}
	}
	head, ref, ok := cutLast(rest)
	if !ok {
		return route{}, false
	}
	name, kind, ok := cutLast(head)
	if !ok {
		return route{}, false
	}
	switch kind {
	case kindBlob, kindManifest, kindReferrers:
		return route{kind, name, ref}, true
	case kindUploads:
		if name, blobs, ok := cutLast(name); ok && blobs == kindBlob {
			return route{kindUpload, name, ref}, true
		}
	}
	return route{}, false
}

func cutLast(path string) (head, last string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

// parseContentRange reads the Content-Range of a chunk, <first>-<last>, both inclusive (spec, "Pushing a blob in
// chunks"; it is not the header of that name in RFC 9110).
func parseContentRange(s string) (first, last int64, err error) {
	a, b, ok := strings.Cut(s, "-")
	if ok {
		first, err = parseOffset(a)
		if err == nil {
			last, err = parseOffset(b)
		}
	}
	if !ok || err != nil || last < first || last-first == math.MaxInt64 {
		return 0, 0, fmt.Errorf("%.100q is not a Content-Range of a chunk, which looks like 0-1023", s)
	}
	return first, last, nil
}

// parseOffset is strconv.ParseInt without signs and underscores.
func parseOffset(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(s, 10, 64)
}
