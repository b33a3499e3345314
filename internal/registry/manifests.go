package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"slipway/internal/store"
)

// maxTags is how many tags one push of a manifest may set.
const maxTags = 32

// getManifest serves a manifest (spec, "Pulling manifests").
func (h *Handler) getManifest(w http.ResponseWriter, r *http.Request, req request) error {
	unknown := fail(http.StatusNotFound, codeManifestUnknown, "%s has no manifest %.200s", req.name, req.ref)
	if _, err := parseDigest(req.ref); err != nil && !validTag(req.ref) {
		return unknown
	}
	m, err := h.findManifest(r.Context(), req.name, req.ref)
	if errors.Is(err, store.ErrNotFound) {
		return unknown
	}
	if err != nil {
		return err
	}
	etag := `"` + m.Digest + `"`
	w.Header().Set("Docker-Content-Digest", m.Digest)
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header().Set("Content-Type", m.MediaType)
	h.writeJSON(w, r, http.StatusOK, m.Content)
	return nil
}

// putManifest stores a manifest under its digest, and under the tag in its address or the tags in its query (spec,
// "Pushing Manifests"). This is what makes a push visible.
func (h *Handler) putManifest(w http.ResponseWriter, r *http.Request, req request) error {
	var want digest
	var tags []string
	algorithm := "sha256"
	if validTag(req.ref) {
		tags = []string{req.ref}
	} else {
		d, err := parseDigest(req.ref)
		if err != nil {
			return fail(http.StatusBadRequest, codeManifestInvalid, "%.200q is neither a tag nor a digest: %v", req.ref, err)
		}
		want, algorithm, tags = d, d.algorithm, r.URL.Query()["tag"]
		if len(tags) > maxTags {
			return fail(http.StatusRequestURITooLong, codeManifestInvalid, "a push may set %d tags, not %d", maxTags, len(tags))
		}
		for _, tag := range tags {
			if !validTag(tag) {
				return fail(http.StatusBadRequest, codeManifestInvalid, "%.200q is not a tag", tag)
			}
		}
	}

	content, err := h.readManifest(w, r)
	if err != nil {
		return err
	}
	got := digestOf(algorithm, content)
	if want != (digest{}) && got != want {
		return fail(http.StatusBadRequest, codeDigestInvalid, "the manifest that arrived has the digest %s, not %s; nothing was stored", got, want)
	}
	m, err := parseManifest(r.Header.Get("Content-Type"), content)
	if err != nil {
		return fail(http.StatusBadRequest, codeManifestInvalid, "%v", err)
	}
	if err := h.checkFiles(r.Context(), req.name, m); err != nil {
		return err
	}
	m.Repository, m.Digest, m.Created, m.By = req.name, got.String(), h.now(), req.who.Subject()
	// All of it is here: a client that goes away changes nothing any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	immutable, err := h.immutable(ctx, req.name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if immutable(tag) {
			m.Immutable = append(m.Immutable, tag)
		}
	}
	err = h.store.PutManifest(ctx, m, tags...)
	if errors.Is(err, store.ErrExists) {
		return fail(http.StatusForbidden, codeDenied, "%s is immutable in %s and is another image's already; nothing was stored. Push under another tag",
			strings.Join(m.Immutable, " or "), req.name)
	}
	var missing *store.MissingError
	if errors.As(err, &missing) {
		return fail(http.StatusBadRequest, codeManifestBlobUnknown, "the manifest refers to what is not there: %v", missing)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v2/"+req.name+"/manifests/"+req.ref)
	w.Header().Set("Docker-Content-Digest", m.Digest)
	if m.Subject != "" {
		w.Header().Set("OCI-Subject", m.Subject)
	}
	if want != (digest{}) {
		for _, tag := range tags {
			w.Header().Add("OCI-Tag", tag)
		}
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// checkFiles looks for the files of what m refers to. The rows that the store looks for suffice while rows and files
// agree; a lost file, or what a power cut took back of the database, must not make a push accepted that nobody can pull.
func (h *Handler) checkFiles(ctx context.Context, repository string, m store.Manifest) error {
	for _, r := range m.References {
		if r.Manifest {
			continue
		}
		d, err := parseDigest(r.Digest)
		if err != nil {
			return err
		}
		info, err := stat(ctx, h.blobs, d)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.size != r.Size {
			missing := &store.MissingError{Repository: repository, References: []store.Reference{r}}
			return fail(http.StatusBadRequest, codeManifestBlobUnknown, "the manifest refers to what is not there: %v", missing)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readManifest reads the body, which may not be larger than a manifest.
func (h *Handler) readManifest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := fail(http.StatusRequestEntityTooLarge, codeManifestInvalid, "a manifest may have at most %d bytes", maxManifest)
	if r.ContentLength > maxManifest {
		return nil, tooLarge
	}
	rc := http.NewResponseController(w)
	setReadDeadline(rc, time.Now().Add(h.stallTime))
	defer setReadDeadline(rc, time.Time{})
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, codeSizeInvalid, "the manifest ended before its time: %v", err)
	}
	return content, nil
}

// deleteManifest removes a tag, or a manifest with all its tags (spec, "Deleting tags" and "Deleting Manifests").
func (h *Handler) deleteManifest(w http.ResponseWriter, r *http.Request, req request) error {
	change := store.Change{Repository: req.name, Reference: req.ref, By: req.who.Subject(), At: h.now()}
	var err error
	if change.Immutable, err = h.immutable(r.Context(), req.name); err != nil {
		return err
	}
	if validTag(req.ref) {
		err = h.store.DeleteTag(r.Context(), change)
	} else if _, err = parseDigest(req.ref); err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%.200q is neither a tag nor a digest: %v", req.ref, err)
	} else {
		_, err = h.store.DeleteManifest(r.Context(), change)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, codeManifestUnknown, "%s has no manifest %s", req.name, req.ref)
	case errors.Is(err, store.ErrExists):
		return fail(http.StatusForbidden, codeDenied, "%s in %s is, or has, a tag that is immutable; nothing was deleted", req.ref, req.name)
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// maxPage is the most entries of one page of a list, and how many there are when the client does not say.
const maxPage = 10000

// readPage reads n and last (spec, "Listing Tags"). It asks for one entry more than n, to know whether there is a next
// page.
func readPage(req request, q url.Values) (store.Page, error) {
	page := store.Page{Repository: req.name, Last: q.Get("last"), Limit: maxPage + 1}
	if q.Has("n") {
		n, err := parseOffset(q.Get("n"))
		if errors.Is(err, strconv.ErrSyntax) {
			return page, fail(http.StatusBadRequest, codeUnsupported, "n is a number of entries, not %.50q", q.Get("n"))
		}
		page.Limit = int(min(n, maxPage)) + 1
	}
	return page, checkText("last", page.Last)
}

// checkText refuses a parameter that no database should see.
func checkText(name, value string) error {
	if len(value) > 512 || strings.ContainsFunc(value, unprintable) || !utf8.ValidString(value) {
		return fail(http.StatusBadRequest, codeUnsupported, "the parameter %s is too long, or not printable text", name)
	}
	return nil
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) }

// setNext sets the Link to the page after last (RFC 8288).
func setNext(w http.ResponseWriter, r *http.Request, q url.Values, last string) {
	q.Set("last", last)
	next := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
}

// listTags lists tags (spec, "Listing Tags").
func (h *Handler) listTags(w http.ResponseWriter, r *http.Request, req request) error {
	q := r.URL.Query()
	page, err := readPage(req, q)
	if err != nil {
		return err
	}
	tags, err := h.store.ListTags(r.Context(), page)
	if errors.Is(err, store.ErrNotFound) {
		return fail(http.StatusNotFound, codeNameUnknown, "there is no repository %s", req.name)
	}
	if err != nil {
		return err
	}
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = tag.Name
	}
	names = cutPage(w, r, q, names, page.Limit-1)
	return h.writeList(w, r, map[string]any{"name": req.name, "tags": names})
}

// listRepositories lists repositories
// (https://distribution.github.io/distribution/spec/api/#listing-repositories; the OCI spec has no such thing).
func (h *Handler) listRepositories(w http.ResponseWriter, r *http.Request, req request) error {
	q := r.URL.Query()
	page, err := readPage(req, q)
	if err != nil {
		return err
	}
	names, err := h.store.ListRepositories(r.Context(), page)
	if err != nil {
		return err
	}
	names = cutPage(w, r, q, names, page.Limit-1)
	return h.writeList(w, r, map[string]any{"repositories": names})
}

// cutPage cuts names to n, and links to the next page if there is one. An empty list is not null in JSON.
func cutPage(w http.ResponseWriter, r *http.Request, q url.Values, names []string, n int) []string {
	if len(names) > n {
		names = names[:n]
		if n > 0 { // n=0 has no next page (spec)
			setNext(w, r, q, names[n-1])
		}
	}
	if names == nil {
		return []string{}
	}
	return names
}

func (h *Handler) writeList(w http.ResponseWriter, r *http.Request, list any) error {
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	h.writeJSON(w, r, http.StatusOK, body)
	return nil
}

// maxReferrers is the most referrers on one page.
const maxReferrers = 500

// listReferrers lists what is about a manifest (spec, "Listing Referrers"). The manifest need not exist.
func (h *Handler) listReferrers(w http.ResponseWriter, r *http.Request, req request) error {
	if err := checkSubject(req.ref); err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	}
	q := r.URL.Query()
	filter := store.ReferrerFilter{
		Repository: req.name, Subject: req.ref, ArtifactType: q.Get("artifactType"), Last: q.Get("last"), Limit: maxReferrers,
	}
	if err := cmp.Or(checkText("last", filter.Last), checkText("artifactType", filter.ArtifactType)); err != nil {
		return err
	}
	manifests, more, err := h.store.ListReferrers(r.Context(), filter)
	if err != nil {
		return err
	}
	descriptors := make([]descriptor, len(manifests))
	for i, m := range manifests {
		descriptors[i] = descriptor{
			MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
		}
	}
	if more {
		setNext(w, r, q, descriptors[len(descriptors)-1].Digest)
	}
	if filter.ArtifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", mediaIndex)
	return h.writeList(w, r, map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": descriptors})
}
