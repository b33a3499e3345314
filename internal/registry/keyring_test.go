package registry

import (
	"errors"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// source is where a test's credentials are.
type source struct {
	credentials.Value
	failed error
	asked  int
}

func (p *source) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

func (p *source) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	p.asked++
	return p.Value, p.failed
}

func (p *source) IsExpired() bool { return true }

// Credentials that cannot be renewed are used as long as they are good, and asked for again in a minute.
func TestKeyring(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	failed := errors.New("it does not answer")
	for name, test := range map[string]struct {
		expires time.Time
		// after is when they are asked for again, and fail; kept whether the old ones are used, and asked whether that was due.
		after       time.Duration
		kept, asked bool
	}{
		"a role's":                     {now.Add(time.Hour), time.Second, true, true}, // it says so itself
		"a role's that ended":          {now.Add(time.Hour), time.Hour, false, true},
		"those of a file":              {time.Time{}, time.Minute, true, true},
		"those of a file, before that": {time.Time{}, 59 * time.Second, true, false},
	} {
		at := now
		p := &source{Value: credentials.Value{AccessKeyID: "a-key", SecretAccessKey: "a-secret", Expiration: test.expires}}
		keys := credentials.New(&keyring{places: []credentials.Provider{&source{failed: failed}, p}, now: func() time.Time { return at }})
		if value, err := keys.GetWithContext(nil); err != nil || value != p.Value {
			t.Errorf("%s: at first %+v, %v", name, value, err)
		}
		at = at.Add(test.after)
		p.failed = failed
		value, err := keys.GetWithContext(nil)
		if kept := err == nil && value == p.Value; kept != test.kept || !kept && !errors.Is(err, failed) {
			t.Errorf("%s: then %+v, %v", name, value, err)
		}
		if asked := p.asked == 2; asked != test.asked {
			t.Errorf("%s: asked %d times", name, p.asked)
		}
		if !test.kept || !test.asked {
			continue
		}
		// Nobody is bothered for a minute, and then there are new ones.
		p.failed, p.AccessKeyID = nil, "new"
		if value, err := keys.GetWithContext(nil); err != nil || value.AccessKeyID != "a-key" {
			t.Errorf("%s: at once %+v, %v", name, value, err)
		}
		at = at.Add(time.Minute)
		if value, err := keys.GetWithContext(nil); err != nil || value.AccessKeyID != "new" {
			t.Errorf("%s: at last %+v, %v", name, value, err)
		}
	}
}
