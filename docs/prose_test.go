package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	maxSentence = 35  // words
	maxCodeLine = 120 // characters
)

// bannedWords are words for which the field has others.
var bannedWords = map[*regexp.Regexp]string{
	regexp.MustCompile(`(?i)\banew\b`):                                                                   "again",
	regexp.MustCompile(`(?i)\bmend(s|ed|ing)?\b`):                                                        "fix",
	regexp.MustCompile(`(?i)\b(loop)?holes?\b`):                                                          "vulnerability, or a gap",
	regexp.MustCompile(`(?i)\basked for\b`):                                                              "requested",
	regexp.MustCompile(`(?i)\banswer(s|ed|ing)?\b`):                                                      "response, respond",
	regexp.MustCompile(`(?i)\b(teh|recieve\w*|occured|seperate\w*|wich|thier|existant|priviledge\w*)\b`): "the right spelling",
}

// fromQuestions are sentences about questions, which have answers.
var fromQuestions = regexp.MustCompile(`(?i)\bquestions?\b|\basks?\b|standard input|\bDNS\b|caddy http-helper new`)

// prose are the pages, those in deploy/ among them.
func prose(t *testing.T) []string {
	t.Helper()
	files := documents(t)
	err := filepath.WalkDir("deploy", func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var (
	codeBlock    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	codeSpan     = regexp.MustCompile("`[^`]*`")
	linkTarget   = regexp.MustCompile(`\]\([^)]*\)|^\[[^\]]+\]: .*$|\]\[[^\]]*\]`)
	listItem     = regexp.MustCompile(`(?m)^\s*(?:[*-]|\d+\.) `)
	sentenceEnds = regexp.MustCompile(`[.!?](?:\s|$|[)*"]+(?:\s|$))`)
)

// TestProse keeps sentences short, and the words those of the field.
func TestProse(t *testing.T) {
	for _, file := range prose(t) {
		for _, sentence := range sentences(readDocument(t, file)) {
			if words := len(strings.Fields(sentence)); words > maxSentence {
				t.Errorf("%s: a sentence of %d words: %s", file, words, sentence)
			}
			for word, better := range bannedWords {
				found := word.FindString(sentence)
				if strings.HasPrefix(strings.ToLower(found), "answer") && fromQuestions.MatchString(sentence) {
					continue
				}
				if found != "" {
					t.Errorf("%s: %q, better %s: %s", file, found, better, sentence)
				}
			}
		}
	}
}

// sentences are those of a page, without its code. A cell of a table, an item of a list and a heading end one.
func sentences(page string) []string {
	page = codeBlock.ReplaceAllString(page, "\n\n")
	page = codeSpan.ReplaceAllString(page, "code")
	var lines []string
	for line := range strings.Lines(page) {
		line = linkTarget.ReplaceAllString(strings.TrimRight(line, "\n"), "]")
		if strings.HasPrefix(line, "|") {
			line = "\n\n" + strings.ReplaceAll(line, "|", "\n\n") + "\n\n"
		}
		if strings.HasPrefix(line, "#") {
			line = "\n\n" + strings.TrimLeft(line, "# ") + "\n\n"
		}
		lines = append(lines, line)
	}
	page = listItem.ReplaceAllString(strings.Join(lines, "\n"), "\n\n")
	var found []string
	for paragraph := range strings.SplitSeq(page, "\n\n") {
		for _, sentence := range sentenceEnds.Split(paragraph, -1) {
			if sentence = strings.Join(strings.Fields(sentence), " "); sentence != "" {
				found = append(found, sentence)
			}
		}
	}
	return found
}

// TestSentences keeps the check from passing because it finds no sentence.
func TestSentences(t *testing.T) {
	got := sentences("# A heading\n\nOne sentence\nhere. Another (in brackets). `code. code`\n\n* an item\n* another\n\n| a | b |\n")
	want := []string{"A heading", "One sentence here", "Another (in brackets)", "code", "an item", "another", "a", "b"}
	if strings.Join(got, "/") != strings.Join(want, "/") {
		t.Errorf("got %q", got)
	}
}

// oneText is a line of JSON that cannot be broken: one key and one text.
var oneText = regexp.MustCompile(`^ *"\w+": "[^"]*",?$`)

// TestCodeInDocsIsNarrow keeps lines of code from being cut off or wrapped where they are read.
func TestCodeInDocsIsNarrow(t *testing.T) {
	for _, file := range prose(t) {
		for _, block := range codeBlock.FindAllString(readDocument(t, file), -1) {
			for line := range strings.Lines(block) {
				line = strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    ")
				if n := utf8.RuneCountInString(line); n > maxCodeLine && !oneText.MatchString(line) {
					t.Errorf("%s: a line of %d characters: %s", file, n, line)
				}
			}
		}
	}
}
