package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// client keeps as many connections as there are workers.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}

func (r *registry) send(method, address, contentType string, body []byte, want int) (*http.Response, error) {
	req, err := http.NewRequest(method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %s", method, address, resp.Status, text)
	}
	return resp, errors.Join(err, resp.Body.Close())
}

// putBlob uploads a blob of that digest as clients do: POST for a place, PUT of all bytes.
func (r *registry) putBlob(content []byte, digest string) error {
	resp, err := r.send("POST", r.url+"/v2/"+repository+"/blobs/uploads/", "application/octet-stream", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	place, err := resp.Location()
	if err != nil {
		return err
	}
	query := place.Query()
	query.Set("digest", digest)
	place.RawQuery = query.Encode()
	_, err = r.send("PUT", place.String(), "application/octet-stream", content, http.StatusCreated)
	return err
}

const mediaImage = "application/vnd.oci.image.manifest.v1+json"

func manifest(layer []byte) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, mediaImage, digest([]byte("{}")), digest(layer), len(layer))
}

// push pushes an image of a config and a layer.
func (r *registry) push(layer []byte, tag string) error {
	if err := errors.Join(r.putBlob([]byte("{}"), digest([]byte("{}"))), r.putBlob(layer, digest(layer))); err != nil {
		return err
	}
	_, err := r.send("PUT", r.url+"/v2/"+repository+"/manifests/"+tag, mediaImage, manifest(layer), http.StatusCreated)
	return err
}

// pull pulls an image with a layer of that digest. It does not check what it gets: that would cost more than serving it.
func (r *registry) pull(with *http.Client, layer, tag string) error {
	for _, path := range []string{"manifests/" + tag, "blobs/" + digest([]byte("{}")), "blobs/" + layer} {
		if err := fetch(with, r.url+"/v2/"+repository+"/"+path, r.token); err != nil {
			return err
		}
	}
	return nil
}

// pullAtOnce pulls an image by crowd clients, each with a connection of its own, at the same time.
func (r *registry) pullAtOnce(layer, tag string) error {
	var group sync.WaitGroup
	failed := make(chan error, crowd)
	for range crowd {
		group.Go(func() {
			own := &http.Client{Transport: &http.Transport{}}
			defer own.CloseIdleConnections()
			failed <- r.pull(own, layer, tag)
		})
	}
	group.Wait()
	close(failed)
	var err error
	for one := range failed {
		err = errors.Join(err, one)
	}
	return err
}

// buffers are large, so that what the client costs does not hide what the servers do.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// fetch reads a URL to its end, and throws it away.
func fetch(with *http.Client, address, token string) error {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", mediaImage+", */*")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := with.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", address, resp.Status)
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buffer)
	return err
}

// makeTags gives one image manyTags tags.
func (r *registry) makeTags() error {
	if err := r.push(random(10), "first"); err != nil {
		return err
	}
	layer := random(10)
	if err := r.push(layer, "v0"); err != nil {
		return err
	}
	for i := 1; i < manyTags-1; i++ {
		address := fmt.Sprintf("%s/v2/%s/manifests/v%d", r.url, repository, i)
		if _, err := r.send("PUT", address, mediaImage, manifest(layer), http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

// listTags reads all tags, page by page.
func (r *registry) listTags() error {
	n := 0
	for last := ""; ; {
		address := fmt.Sprintf("%s/v2/%s/tags/list?n=1000&last=%s", r.url, repository, last)
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		if r.token != "" {
			req.Header.Set("Authorization", "Bearer "+r.token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		var page struct{ Tags []string }
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&page), resp.Body.Close())
		if err != nil {
			return err
		}
		n += len(page.Tags)
		if len(page.Tags) < 1000 {
			break
		}
		last = page.Tags[len(page.Tags)-1]
	}
	if n < manyTags {
		return fmt.Errorf("%d tags were listed, and there are %d", n, manyTags)
	}
	return nil
}
