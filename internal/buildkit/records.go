package buildkit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/engine"
)

// records remembers which digest each reference had when it was last pulled, and with whose login. BuildKit knows
// content by digest only; the pull policies "if-not-exists" and "never" ask by name.
//
// A record of a pull with credentials serves only who has the same ones: a private image on this machine is no gift to
// the next repo that guesses its name.
type records struct {
	db   *bolt.DB
	salt []byte
}

// recordAge is how long an unused record is kept.
const recordAge = 90 * 24 * time.Hour

var (
	recordsBucket = []byte("pulled")
	saltBucket    = []byte("salt")
)

type record struct {
	Digest digest.Digest
	Used   time.Time
}

func openRecords(path string) (*records, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	r := &records{db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(saltBucket)
		if err != nil {
			return err
		}
		if r.salt = append(r.salt, bucket.Get(saltBucket)...); len(r.salt) == 0 {
			r.salt = make([]byte, 32)
			rand.Read(r.salt)
			if err := bucket.Put(saltBucket, r.salt); err != nil {
				return err
			}
		}
		if bucket, err = tx.CreateBucketIfNotExists(recordsBucket); err != nil {
			return err
		}
		var old [][]byte
		_ = bucket.ForEach(func(key, value []byte) error {
			var rec record
			if json.Unmarshal(value, &rec) != nil || time.Since(rec.Used) > recordAge {
				old = append(old, key)
			}
			return nil
		})
		for _, key := range old {
			if err := bucket.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return r, nil
}

// key never holds a credential, only a salted hash of it.
func (r *records) key(ref string, login engine.Auth) []byte {
	if login.Username == "" && login.Password == "" {
		return []byte(ref)
	}
	sum := sha256.New()
	for _, part := range []string{CanonicalHost(login.Host), login.Username, login.Password} {
		sum.Write(r.salt)
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return []byte(ref + " " + hex.EncodeToString(sum.Sum(nil)))
}

// find returns the digest that ref was pulled with by this login, or by nobody in particular; or "".
func (r *records) find(ref string, login engine.Auth) digest.Digest {
	var rec record
	_ = r.db.View(func(tx *bolt.Tx) error {
		for _, key := range [][]byte{r.key(ref, login), []byte(ref)} {
			if value := tx.Bucket(recordsBucket).Get(key); value != nil {
				return json.Unmarshal(value, &rec)
			}
		}
		return nil
	})
	return rec.Digest
}

func (r *records) put(ref string, login engine.Auth, dgst digest.Digest) error {
	now := time.Now()
	key := r.key(ref, login)
	value, err := json.Marshal(record{Digest: dgst, Used: now})
	if err != nil {
		return err
	}
	fresh := false
	_ = r.db.View(func(tx *bolt.Tx) error {
		var rec record
		_ = json.Unmarshal(tx.Bucket(recordsBucket).Get(key), &rec)
		fresh = rec.Digest == dgst && now.Sub(rec.Used) < recordAge/10
		return nil
	})
	if fresh {
		return nil // a write is a disk flush; a warm pull does without
	}
	return r.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(recordsBucket).Put(key, value) })
}

func (r *records) close() error { return r.db.Close() }
