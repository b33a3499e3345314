package secret

import (
	"fmt"
	"slices"
	"strings"

	"slipway/internal/ci"
)

// For returns those of a repo's secrets that a run of event may have. A pull request from a fork, or one of unknown
// origin, gets none; one of the same repo gets those that are marked for it; everything else gets all.
func For(event ci.Event, secrets []ci.Secret) []ci.Secret {
	switch {
	case event.FromFork(), event.Kind == ci.PullRequest && event.PullRequest == nil:
		return nil
	case event.Kind == ci.PullRequest, event.PullRequest != nil:
		return slices.DeleteFunc(slices.Clone(secrets), func(s ci.Secret) bool { return !s.PullRequests })
	}
	return slices.Clone(secrets)
}

// Find returns the secret of that name, without regard to case.
func Find(secrets []ci.Secret, name string) (ci.Secret, bool) {
	i := slices.IndexFunc(secrets, func(s ci.Secret) bool { return fold(s.Name) == fold(name) })
	if i < 0 {
		return ci.Secret{}, false
	}
	return secrets[i], true
}

// SealSecret seals the value of a repo's secret.
func (k *Keys) SealSecret(repo, name string, value []byte) ([]byte, error) {
	sealed, err := k.Seal(value, "secret", repo, fold(name))
	if err != nil {
		return nil, fmt.Errorf("secret %s of %s: %w", name, repo, err)
	}
	return sealed, nil
}

// OpenSecret returns the value of a repo's secret.
func (k *Keys) OpenSecret(secret ci.Secret) ([]byte, error) {
	value, err := k.Open(secret.Sealed, "secret", secret.Repo, fold(secret.Name))
	if err != nil {
		return nil, fmt.Errorf("secret %s of %s: %w", secret.Name, secret.Repo, err)
	}
	return value, nil
}

// fold returns a name as names are compared; the store does the same.
func fold(name string) string { return strings.ToLower(name) }
