// Package secret keeps secrets secret: sealed where they are stored, withheld from runs that may not have them, and
// masked in what steps print.
//
// [Keys] seal and open, [For] says which secrets a run gets, and a [Masker] hides their values in a log.
package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxValue is how long a value may be, in bytes.
const MaxValue = 64 << 10

// MaxLarge is how long what [Keys.SealLarge] takes may be, in bytes.
const MaxLarge = 1 << 20

// A sealed value is
//
//	version 1, key ID (8 bytes), nonce (12 bytes), AES-256-GCM of the value, its tag last (16 bytes)
//
// and the additional data of GCM are the header (version and key ID) and what the value is about. The nonce is random:
// one key may seal 2^32 values (NIST SP 800-38D, section 8.3), which no server does.
const (
	version   = 1
	keyIDSize = 8
	header    = 1 + keyIDSize
)

// linePrefix begins each line of a key file; the key in base64 follows.
const linePrefix = "slipway-key-1:"

// Keys seal values and open them. They may be used concurrently.
type Keys struct {
	path string
	keys []key // the first one seals
}

type key struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

// OpenKeys reads the key file at path. If there is none it makes one with a new key, readable by its owner only; of
// several processes that do so at once, one wins and the others read its key. The file has a key per line: the first
// one seals, all of them open. So a key is changed by putting a new line before the old one.
//
// Who has this file and the database has all secrets; who loses it loses them.
func OpenKeys(path string) (*Keys, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make key file %s: %w", path, err)
		}
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("key file %s can be used by every user of this machine; run: chmod 600 %[1]s", path)
	}
	keys := &Keys{path: path}
	for i, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(line), linePrefix)
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(secret) != 32 {
			return nil, fmt.Errorf("key file %s, line %d: it is not a key; restore the file from a backup", path, i+1)
		}
		k, err := newKey(secret)
		if err != nil {
			return nil, fmt.Errorf("key file %s, line %d: %w", path, i+1, err)
		}
		keys.keys = append(keys.keys, k)
	}
	return keys, nil
}

func newKey(secret []byte) (key, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return key{}, err
	}
	sum := sha256.Sum256(append([]byte("slipway key id\x00"), secret...))
	return key{[keyIDSize]byte(sum[:keyIDSize]), aead}, nil
}

// createKey makes the key file, whole or not at all, or says [fs.ErrExist].
func createKey(path string) (err error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".key-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = fmt.Fprintf(file, "%s%s\n", linePrefix, base64.StdEncoding.EncodeToString(secret))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil { // unlike a rename it replaces nothing
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Seal encrypts value, which is at most [MaxValue] long. About says what it is, such as "secret", a repo and a name: it
// opens only as the same, so that who can write to the database cannot give one repo the secret of another.
func (k *Keys) Seal(value []byte, about ...string) ([]byte, error) {
	return k.seal(MaxValue, value, about)
}

// SealLarge is [Keys.Seal] of what is not a value that somebody typed, such as the manifests of a release: it is at most
// [MaxLarge] long.
func (k *Keys) SealLarge(value []byte, about ...string) ([]byte, error) {
	return k.seal(MaxLarge, value, about)
}

func (k *Keys) seal(limit int, value []byte, about []string) ([]byte, error) {
	if len(value) > limit {
		return nil, fmt.Errorf("the value has %d bytes; at most %d are allowed", len(value), limit)
	}
	sealed := append([]byte{version}, k.keys[0].id[:]...)
	return k.keys[0].aead.Seal(sealed, nil, value, additional(sealed, about)), nil
}

// Open decrypts what [Keys.Seal] or [Keys.SealLarge] returned for the same about.
func (k *Keys) Open(sealed []byte, about ...string) ([]byte, error) {
	if len(sealed) < header+k.keys[0].aead.Overhead() || sealed[0] != version {
		return nil, errors.New("the sealed value is damaged, or of a newer slipway; set the secret again")
	}
	for _, key := range k.keys {
		if !bytes.Equal(sealed[1:header], key.id[:]) {
			continue
		}
		value, err := key.aead.Open(nil, nil, sealed[header:], additional(sealed[:header], about))
		if err != nil {
			return nil, errors.New("the sealed value is damaged, or was moved from another place; set the secret again")
		}
		return value, nil
	}
	return nil, fmt.Errorf("the value was sealed with key %x, which is not in %s; restore that file, or set the secret again",
		sealed[1:header], k.path)
}

// additional returns the additional data of GCM; no two lists give the same.
func additional(header []byte, about []string) []byte {
	data := bytes.Clone(header)
	for _, s := range about {
		data = binary.BigEndian.AppendUint32(data, uint32(len(s)))
		data = append(data, s...)
	}
	return data
}
