package engine

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ParseDockerConfig reads the logins of a Docker configuration: {"auths": {"host": {"auth": "base64 of user:password"}}},
// or with username and password in place of auth. Hosts may be written as URLs, as Docker Hub's is.
func ParseDockerConfig(data []byte) ([]Auth, error) {
	var config struct {
		Auths map[string]struct {
			Auth     string `json:"auth"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, errors.New("it is not a Docker configuration in JSON") // its text may hold a password
	}
	var auths []Auth
	for _, host := range slices.Sorted(maps.Keys(config.Auths)) {
		entry := config.Auths[host]
		auth := Auth{Host: registryHost(host), Username: entry.Username, Password: entry.Password}
		if entry.Auth != "" {
			login, err := base64.StdEncoding.DecodeString(entry.Auth)
			if err != nil {
				return nil, fmt.Errorf("the auth of %s is not base64", host)
			}
			username, password, ok := strings.Cut(strings.TrimRight(string(login), "\x00"), ":")
			if !ok {
				return nil, fmt.Errorf("the auth of %s is not user:password", host)
			}
			auth.Username, auth.Password = username, password
		}
		auths = append(auths, auth)
	}
	return auths, nil
}

func registryHost(key string) string {
	_, after, isURL := strings.Cut(key, "://")
	if !isURL {
		after = key
	}
	host, _, _ := strings.Cut(after, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}
