/* Greedy generation from C: token ids in, token ids out.
 *
 *   cargo rustc -p jet-runtime --features capi --crate-type staticlib --profile tiny
 *   cc -I runtime/include examples/embed-c/main.c target/tiny/libjet_runtime.a -lpthread -ldl -lm -o embed
 *   ./embed model.jetbin 16 1 2 3
 */
#include "jet_runtime.h"

#include <stdio.h>
#include <stdlib.h>

static int fail(const char *reason) {
    fprintf(stderr, "embed: %s\n", reason);
    return 2;
}

static int is_eos(const uint32_t *eos, size_t n, uint32_t id) {
    for (size_t i = 0; i < n; i++)
        if (eos[i] == id) return 1;
    return 0;
}

static int generate(jet_session *session, const uint32_t *prompt, size_t n_prompt, long n_new) {
    uint32_t eos[16], id, sequence = 0;
    size_t n_eos = jet_eos_ids(session, eos, 16);
    if (n_eos > 16) n_eos = 16;
    if (jet_prefill(session, sequence, prompt, n_prompt)) return -1;
    for (long made = 0; made < n_new; made++) {
        if (made > 0 && jet_decode(session, &sequence, &id, 1)) return -1;
        if (jet_argmax(session, jet_rows(session) - 1, &id)) return -1;
        if (is_eos(eos, n_eos, id)) break;
        printf("%u ", id);
        fflush(stdout);
    }
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4) return fail("usage: embed ARTIFACT NEW_TOKENS ID ..");
    char error[512];
    jet_session *session = jet_open(argv[1], 0, 1, 0, error, sizeof error);
    if (!session) return fail(error);
    size_t n = (size_t)(argc - 3);
    uint32_t *prompt = malloc(n * sizeof *prompt);
    if (!prompt) return fail("out of memory");
    for (size_t i = 0; i < n; i++) prompt[i] = (uint32_t)strtoul(argv[3 + i], NULL, 10);
    int code = generate(session, prompt, n, strtol(argv[2], NULL, 10)) ? fail(jet_error(session)) : 0;
    free(prompt);
    jet_close(session);
    return code;
}
