package s3

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The examples that AWS gives for its signatures
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and sigv4-query-string-auth.html).
var (
	example = signer{Credentials{KeyID: "AKIAIOSFODNN7EXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}, "us-east-1"}
	day     = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
)

func TestSign(t *testing.T) {
	for _, test := range []struct {
		method, path string
		query        url.Values
		header       http.Header
		sum, want    string
	}{
		{"GET", "/test.txt", nil, http.Header{"Range": {"bytes=0-9"}}, emptySum, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{
			"PUT", "/test$file.text", nil,
			http.Header{"Date": {"Fri, 24 May 2013 00:00:00 GMT"}, "X-Amz-Storage-Class": {"REDUCED_REDUNDANCY"}},
			"44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
		},
		{"GET", "/", url.Values{"lifecycle": {""}}, nil, emptySum, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"GET", "/", url.Values{"max-keys": {"2"}, "prefix": {"J"}}, nil, emptySum, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		header := test.header
		if header == nil {
			header = http.Header{}
		}
		u := &url.URL{Scheme: "https", Host: "examplebucket.s3.amazonaws.com", Path: test.path, RawPath: encode(test.path, true), RawQuery: encodeQuery(test.query)}
		r := &http.Request{Method: test.method, URL: u, Header: header}
		example.sign(r, test.sum, day)
		if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, ",Signature="+test.want) {
			t.Errorf("%s %s: %s, want %s", test.method, u, got, test.want)
		}
	}
}

func TestPresign(t *testing.T) {
	u := url.URL{Scheme: "https", Host: "examplebucket.s3.amazonaws.com", Path: "/test.txt"}
	want := "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256" +
		"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400" +
		"&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
	if got := example.presign(u, 24*time.Hour, day); got != want {
		t.Errorf("the address is %s", got)
	}
}

func TestParseCredentials(t *testing.T) {
	const text = "# mine\n[default]\naws_access_key_id = a\naws_secret_access_key=b=c\n\n[ ci ]\n; x=y\nAWS_ACCESS_KEY_ID=d\naws_secret_access_key = e\naws_session_token = f\n"
	for profile, want := range map[string]Credentials{"default": {"a", "b=c", ""}, "ci": {"d", "e", "f"}, "none": {}} {
		if got := parseCredentials(text, profile); got != want {
			t.Errorf("%s: %+v", profile, got)
		}
	}
}
