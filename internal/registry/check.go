package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"slipway/internal/store"
)

// CheckOptions say how thorough [Handler.Check] is.
type CheckOptions struct {
	// Verify reads every blob and computes its digest. Without it, only the sizes are compared.
	Verify bool
	// Repair makes right what can be.
	Repair bool
}

// Problem is a disagreement between the database and the disk.
type Problem struct {
	// Kind is one of the Problem constants.
	Kind ProblemKind
	// Digest is of the blob or manifest.
	Digest string
	// Repository is where it matters; empty for a blob by itself.
	Repository string
	// Message is one sentence about it.
	Message string
	// Repaired is true if it is no more.
	Repaired bool
}

// ProblemKind is a kind of [Problem].
type ProblemKind string

// The kinds, and what Repair does about them.
const (
	// StrayFile is a file that no row knows; it is removed.
	StrayFile ProblemKind = "stray file"
	// LostBlob is a row whose file is not there. If no manifest needs the blob, the row is removed; else the next push of
	// the blob brings the file back.
	LostBlob ProblemKind = "lost blob"
	// DamagedBlob is a file that has not the bytes of its digest. It is moved to the folder damaged/, and is a LostBlob then.
	DamagedBlob ProblemKind = "damaged blob"
	// Unlinked is a blob that a manifest refers to and that its repository does not have. If it is stored, it is linked.
	Unlinked ProblemKind = "unlinked blob"
	// DamagedManifest is a manifest whose bytes have not its digest. Pushing it anew under its digest needs its deletion.
	DamagedManifest ProblemKind = "damaged manifest"
)

// Check compares the database with the disk and returns what disagrees. It may run while the registry serves.
func (h *Handler) Check(ctx context.Context, o CheckOptions) ([]Problem, error) {
	c := &checker{Handler: h, CheckOptions: o}
	if err := errors.Join(c.rows(ctx), c.files(ctx), c.manifests(ctx)); err != nil {
		return c.found, fmt.Errorf("registry: check: %w", err)
	}
	return c.found, nil
}

type checker struct {
	*Handler
	CheckOptions
	found []Problem
}

// rows looks for the file of each row.
func (c *checker) rows(ctx context.Context) error {
	for last := ""; ; {
		blobs, err := c.store.ListBlobs(ctx, last, 500)
		if err != nil || len(blobs) == 0 {
			return err
		}
		last = blobs[len(blobs)-1].Digest
		for _, blob := range blobs {
			if err := c.blob(ctx, blob); err != nil {
				return err
			}
		}
	}
}

func (c *checker) blob(ctx context.Context, blob store.Blob) error {
	d, err := parseDigest(blob.Digest)
	if err != nil {
		return err
	}
	// Shared: nobody takes the blob away meanwhile, and pushes go on.
	lock := c.locks.of(d)
	lock.RLock()
	blob, err = c.store.StatBlob(ctx, blob.Digest)
	kind, message := ProblemKind(""), ""
	if err == nil {
		kind, message, err = c.look(ctx, d, blob.Size)
	}
	lock.RUnlock()
	if errors.Is(err, store.ErrNotFound) {
		return nil // freed meanwhile
	}
	if err != nil || kind == "" {
		return err
	}
	problem := Problem{Kind: kind, Digest: blob.Digest, Message: message}
	if c.Repair {
		lock.Lock()
		problem.Repaired, err = c.dropBlob(ctx, d, blob.Size)
		lock.Unlock()
		if err != nil {
			return err
		}
	}
	if !problem.Repaired {
		users, err := c.store.BlobRepositories(ctx, blob.Digest)
		if err != nil {
			return err
		}
		problem.Message += fmt.Sprintf("; push it again to one of %q, or delete the manifests that need it", users)
	}
	c.found = append(c.found, problem)
	return nil
}

// look compares a blob's file with its row.
func (c *checker) look(ctx context.Context, d digest, size int64) (ProblemKind, string, error) {
	f, info, err := c.blobs.open(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return LostBlob, "its file is not there", nil
	}
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if info.size != size {
		return DamagedBlob, fmt.Sprintf("its file has %d bytes, and should have %d", info.size, size), nil
	}
	if !c.Verify {
		return "", "", nil
	}
	sum := newHash(d.algorithm)
	if _, err := io.Copy(sum, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.Read(p)
	})); err != nil {
		return "", "", err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.hex {
		return DamagedBlob, "its file has the digest " + d.algorithm + ":" + got, nil
	}
	return "", "", nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// dropBlob takes a blob whose file is bad out of all repositories that do not need it, puts the file aside, and reports
// whether that was all. The caller has the blob's lock alone.
func (c *checker) dropBlob(ctx context.Context, d digest, size int64) (bool, error) {
	switch kind, _, err := c.look(ctx, d, size); {
	case err != nil:
		return false, err
	case kind == "":
		return true, nil // a push repaired it
	case kind == DamagedBlob:
		if err := c.blobs.setAside(ctx, d); err != nil {
			return false, err
		}
	}
	users, err := c.store.BlobRepositories(ctx, d.String())
	if err != nil {
		return false, err
	}
	needed := false
	for _, name := range users {
		err := c.store.UnlinkBlob(ctx, name, d.String())
		if errors.Is(err, store.ErrInUse) {
			needed = true
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	if needed {
		return false, nil
	}
	err = c.store.ForgetBlob(ctx, d.String(), c.now().Add(time.Hour))
	if errors.Is(err, store.ErrInUse) || errors.Is(err, store.ErrNotFound) {
		return errors.Is(err, store.ErrNotFound), nil
	}
	return err == nil, err
}

// files looks for the row of each file.
func (c *checker) files(ctx context.Context) error {
	return c.blobs.walk(ctx, func(d digest) error {
		_, err := c.store.StatBlob(ctx, d.String())
		if errors.Is(err, store.ErrNotFound) {
			// A push has its file before its row, and the lock meanwhile.
			lock := c.locks.of(d)
			lock.Lock()
			if _, err = stat(ctx, c.blobs, d); err == nil {
				_, err = c.store.StatBlob(ctx, d.String())
			} else if errors.Is(err, fs.ErrNotExist) {
				err = nil // collected meanwhile
			}
			lock.Unlock()
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		problem := Problem{Kind: StrayFile, Digest: d.String(), Message: "no row knows the file " + c.blobs.where(d)}
		if c.Repair {
			switch _, err := c.removeStray(ctx, d, c.now().Add(time.Hour)); {
			case errors.Is(err, store.ErrInUse):
				return nil // pushed meanwhile, or collected
			case err != nil:
				return err
			}
			problem.Repaired = true
		}
		c.found = append(c.found, problem)
		return nil
	})
}

// manifests looks whether each manifest is whole and has its blobs in its repository.
func (c *checker) manifests(ctx context.Context) error {
	for repository := ""; ; {
		names, err := c.store.ListRepositories(ctx, store.Page{Last: repository, Limit: 500})
		if err != nil || len(names) == 0 {
			return err
		}
		for _, repository = range names {
			for last := ""; ; {
				manifests, err := c.store.ListManifests(ctx, store.Page{Repository: repository, Last: last, Limit: 50}, true)
				if err != nil {
					return err
				}
				if len(manifests) == 0 {
					break
				}
				last = manifests[len(manifests)-1].Digest
				for _, m := range manifests {
					if err := c.manifest(ctx, m); err != nil {
						return err
					}
				}
			}
		}
	}
}

func (c *checker) manifest(ctx context.Context, m store.Manifest) error {
	if !m.Deleted.IsZero() {
		return nil // restoring it looks for itself
	}
	d, err := parseDigest(m.Digest)
	if err != nil {
		return err
	}
	if got := digestOf(d.algorithm, m.Content); got != d {
		c.found = append(c.found, Problem{
			Kind: DamagedManifest, Digest: m.Digest, Repository: m.Repository,
			Message: fmt.Sprintf("its bytes have the digest %s; delete it and push it again", got),
		})
		return nil
	}
	if strings.HasPrefix(m.Repository, mirrorPrefix) {
		return nil // what is not here yet is fetched when somebody asks for it
	}
	for _, r := range m.References {
		if r.Manifest {
			continue // an index may lose its images
		}
		if _, err := c.store.FindBlob(ctx, m.Repository, r.Digest); !errors.Is(err, store.ErrNotFound) {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := c.store.FindManifest(ctx, m.Repository, m.Digest); errors.Is(err, store.ErrNotFound) {
			return nil // deleted meanwhile, and what it needed with it
		}
		problem := Problem{
			Kind: Unlinked, Digest: r.Digest, Repository: m.Repository, Message: "the manifest " + m.Digest + " refers to it",
		}
		if c.Repair {
			if problem.Repaired, err = c.relink(ctx, m.Repository, r.Digest); err != nil {
				return err
			}
		}
		if !problem.Repaired {
			problem.Message += ", and the repository does not have it; push it again"
		}
		c.found = append(c.found, problem)
	}
	return nil
}

// relink links a blob to the repository if it is stored.
func (c *checker) relink(ctx context.Context, repository, name string) (bool, error) {
	d, err := parseDigest(name)
	if err != nil {
		return false, err
	}
	lock := c.locks.of(d)
	lock.RLock()
	defer lock.RUnlock()
	blob, err := c.store.StatBlob(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	blob.Linked = c.now()
	return true, c.store.LinkBlob(ctx, repository, blob)
}
