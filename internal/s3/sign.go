package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Credentials sign requests.
type Credentials struct {
	// Session is set for temporary ones.
	KeyID, Secret, Session string
}

// emptySum is the SHA-256 of nothing; unsignedPayload stands in its place where no body is signed.
const (
	emptySum        = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	unsignedPayload = "UNSIGNED-PAYLOAD"
)

// signer signs for a region.
type signer struct {
	Credentials
	region string
}

// sign adds a signature to the headers of a request, all of which it covers. bodySum is the SHA-256 of its body, in hex.
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html)
func (s signer) sign(r *http.Request, bodySum string, at time.Time) {
	r.Header.Set("X-Amz-Date", at.UTC().Format("20060102T150405Z"))
	r.Header.Set("X-Amz-Content-Sha256", bodySum)
	if s.Session != "" {
		r.Header.Set("X-Amz-Security-Token", s.Session)
	}
	names := []string{"host"}
	for name := range r.Header {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	var headers strings.Builder
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.URL.Host
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	signed := strings.Join(names, ";")
	request := r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n" + headers.String() + "\n" + signed + "\n" + bodySum
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+s.KeyID+"/"+s.scope(at)+",SignedHeaders="+signed+",Signature="+s.signature(request, at))
}

// presign returns the address u with a signature in it, by which everybody may read there for that long.
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html)
func (s signer) presign(u url.URL, life time.Duration, at time.Time) string {
	q := u.Query()
	q.Set("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
	q.Set("X-Amz-Credential", s.KeyID+"/"+s.scope(at))
	q.Set("X-Amz-Date", at.UTC().Format("20060102T150405Z"))
	q.Set("X-Amz-Expires", strconv.Itoa(int(life.Seconds())))
	q.Set("X-Amz-SignedHeaders", "host")
	if s.Session != "" {
		q.Set("X-Amz-Security-Token", s.Session)
	}
	u.RawQuery = encodeQuery(q)
	request := "GET\n" + u.EscapedPath() + "\n" + u.RawQuery + "\nhost:" + u.Host + "\n\nhost\n" + unsignedPayload
	u.RawQuery += "&X-Amz-Signature=" + s.signature(request, at)
	return u.String()
}

func (s signer) scope(at time.Time) string {
	return at.UTC().Format("20060102") + "/" + s.region + "/s3/aws4_request"
}

func (s signer) signature(request string, at time.Time) string {
	sum := sha256.Sum256([]byte(request))
	text := "AWS4-HMAC-SHA256\n" + at.UTC().Format("20060102T150405Z") + "\n" + s.scope(at) + "\n" + hex.EncodeToString(sum[:])
	key := []byte("AWS4" + s.Secret)
	for _, part := range []string{at.UTC().Format("20060102"), s.region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// encode writes what is not a letter, digit or one of -._~ as %XX, and leaves slashes where they may stay.
func encode(s string, slashes bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 || c == '/' && slashes {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
		}
	}
	return b.String()
}

// encodeQuery writes parameters in the order and the form in which they are signed.
func encodeQuery(q url.Values) string {
	parts := make([]string, 0, len(q))
	for name, values := range q {
		for _, value := range values {
			parts = append(parts, encode(name, false)+"="+encode(value, false))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "&")
}
