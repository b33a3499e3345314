package registry_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway/internal/registry"
)

// Where the credentials of a bucket come from, each place as AWS documents it; the bucket is real, and takes no others. Those that
// end are asked for again.
func TestS3Credentials(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests has these credentials")
	}
	var asked atomic.Int32
	// What is given out has ended already, so each request of the bucket asks again. It is without the session that AWS adds,
	// because the gateway takes only those that it made.
	keys := func(id string) string {
		return fmt.Sprintf(`{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": %q, "SecretAccessKey": "a-secret", "Token": "", "Expiration": %q}`,
			id, time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
	}
	place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		path := r.Method + " " + r.URL.Path
		switch {
		// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
		case path == "PUT /latest/api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
			fmt.Fprint(w, "session")
		case path == "GET /latest/meta-data/iam/security-credentials/" && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "session":
			fmt.Fprint(w, "role")
		case path == "GET /latest/meta-data/iam/security-credentials/role" && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "session":
			asked.Add(1)
			fmt.Fprint(w, keys("a-key"))
		// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
		case path == "GET /container" && (r.Header.Get("Authorization") == "a-password" || r.Header.Get("Authorization") == "from-file"):
			asked.Add(1)
			fmt.Fprint(w, keys("a-key"))
		// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
		case path == "POST /" && strings.Contains(string(text), "WebIdentityToken=a-jwt") && strings.Contains(string(text), "RoleArn=arn"):
			asked.Add(1)
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
				<Credentials><SessionToken></SessionToken><SecretAccessKey>a-secret</SecretAccessKey><Expiration>%s</Expiration>
				<AccessKeyId>a-key</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
				time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
		default:
			t.Errorf("asked for %s with %v %s", path, r.Header, text)
			http.Error(w, "no", http.StatusForbidden)
		}
	}))
	defer place.Close()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const profile = "[default]\naws_access_key_id=wrong\naws_secret_access_key=wrong\n[other]\naws_access_key_id=a-key\naws_secret_access_key=a-secret\n"
	process := file("process", "#!/bin/sh\necho '"+strings.Replace(keys("a-key"), "{", `{"Version": 1, `, 1)+"'\n")
	for name, test := range map[string]struct {
		env    map[string]string
		renews bool
	}{
		"the machine's role":    {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": place.URL}, true},
		"a container's role":    {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": place.URL + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a-password"}, true},
		"an EKS pod's identity": {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": place.URL + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": file("password", "from-file")}, true},
		"a web identity": {map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": file("jwt", "a-jwt"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/images", "AWS_ENDPOINT_URL_STS": place.URL,
		}, true},
		"a profile":           {map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file("credentials", profile), "AWS_PROFILE": "other"}, false},
		"a profile's program": {map[string]string{"AWS_CONFIG_FILE": file("config", "[default]\ncredential_process = sh "+process+"\n")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			withoutCredentials(t)
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			asked.Store(0)
			s := newSite(t, func(o *registry.Options) {
				objects, err := registry.OpenS3(t.Context(), strings.Replace(b.address, "/some/where", "/"+t.Name(), 1), o.Dir)
				if err != nil {
					t.Fatal(err)
				}
				o.S3 = objects
			})
			before := asked.Load()
			digest := s.pushBlob("octo/app", []byte("one"))
			s.want(s.do("GET", s.redirected("/v2/octo/app/blobs/"+digest).Header.Get("Location"), nil, "Authorization: "), 200)
			if after := asked.Load(); test.renews && (before == 0 || after == before) {
				t.Errorf("asked for credentials %d times, and then %d", before, after-before)
			}
		})
	}
}

// withoutCredentials makes the environment one in which there are none.
func withoutCredentials(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{
		"ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "SHARED_CREDENTIALS_FILE", "CONFIG_FILE", "WEB_IDENTITY_TOKEN_FILE",
		"CONTAINER_CREDENTIALS_RELATIVE_URI", "CONTAINER_CREDENTIALS_FULL_URI", "REGION",
	} {
		t.Setenv("AWS_"+name, "")
	}
}

// Having no credentials is said plainly.
func TestS3NoCredentials(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests has these credentials")
	}
	withoutCredentials(t)
	nobody := httptest.NewServer(http.NotFoundHandler())
	defer nobody.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody.URL)
	if _, err := b.open(b.address, t.TempDir()); err == nil || !strings.Contains(err.Error(), "there are no credentials: set AWS_ACCESS_KEY_ID") {
		t.Errorf("without any: %v", err)
	}
	path := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	if _, err := b.open(b.address, t.TempDir()); err == nil || !strings.Contains(err.Error(), "there are no credentials") {
		t.Errorf("without the file: %v", err)
	}
}
