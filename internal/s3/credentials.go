package s3

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FindCredentials returns those of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), or else
// those of AWS's file, ~/.aws/credentials or AWS_SHARED_CREDENTIALS_FILE, in the section AWS_PROFILE or default.
func FindCredentials() (Credentials, error) {
	found := Credentials{os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")}
	if found.KeyID != "" && found.Secret != "" {
		return found, nil
	}
	path := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Credentials{}, errors.New("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		path = filepath.Join(home, ".aws", "credentials")
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Credentials{}, fmt.Errorf("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write %s", path)
	}
	if err != nil {
		return Credentials{}, err
	}
	profile := cmp.Or(os.Getenv("AWS_PROFILE"), "default")
	found = parseCredentials(string(text), profile)
	if found.KeyID == "" || found.Secret == "" {
		return Credentials{}, fmt.Errorf("%s has no credentials in the section %s", path, profile)
	}
	return found, nil
}

// parseCredentials reads a section of AWS's file.
func parseCredentials(text, profile string) (found Credentials) {
	in := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = strings.TrimSpace(strings.Trim(line, "[]")) == profile
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !in || !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(name)) {
		case "aws_access_key_id":
			found.KeyID = value
		case "aws_secret_access_key":
			found.Secret = value
		case "aws_session_token":
			found.Session = value
		}
	}
	return found
}
