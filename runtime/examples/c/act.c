/* A policy that `tether export` wrote, in C with ONNX Runtime: one decision at a time.
 *
 *   cc -O2 -o act act.c -I $ORT/include -L $ORT/lib -lonnxruntime -lm
 *   echo "0.1 -0.2 0.3" | ./act export-onnx/policy.onnx 7
 *
 * Reads observations from stdin, one a line; prints an action for each. The second argument is a seed. Names, shapes and
 * laws of the noise are read from the model: inputs are `observation` and `noise_...`, the metadata say which law each
 * noise has. A policy with a memory (the Decision Transformer) needs its memory handed on as well and is refused here.
 */
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_INPUTS 16
#define MOST_RANK 8

static const OrtApi *ort;

static void check(OrtStatus *status) {
    if (status == NULL) return;
    fprintf(stderr, "onnxruntime: %s\n", ort->GetErrorMessage(status));
    exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(bytes > 0 ? bytes : 1, 1);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

/* --- random numbers: any generator will do, as long as the laws are right ------------------------------------- */

static uint64_t state;

static double uniform(void) { /* in (0, 1), by splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static float draw(const char *law) {
    if (strcmp(law, "normal") == 0) return (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform()));
    if (strcmp(law, "gumbel") == 0) return (float)-log(-log(uniform()));
    return (float)uniform();
}

/* --- the model's inputs ---------------------------------------------------------------------------------------- */

typedef struct {
    char *name;
    char *law; /* NULL: the observation */
    int64_t shape[MOST_RANK];
    size_t rank, size;
    float *numbers;
    OrtValue *value;
} Input;

static Input describe(OrtSession *session, OrtModelMetadata *metadata, OrtAllocator *allocator, size_t index) {
    Input input = {0};
    OrtTypeInfo *type;
    const OrtTensorTypeAndShapeInfo *tensor;
    check(ort->SessionGetInputName(session, index, allocator, &input.name));
    check(ort->SessionGetInputTypeInfo(session, index, &type));
    check(ort->CastTypeInfoToTensorInfo(type, &tensor));
    check(ort->GetDimensionsCount(tensor, &input.rank));
    if (input.rank > MOST_RANK) {
        fprintf(stderr, "%s: more than %d axes\n", input.name, MOST_RANK);
        exit(1);
    }
    check(ort->GetDimensions(tensor, input.shape, input.rank));
    ort->ReleaseTypeInfo(type);
    input.shape[0] = 1; /* the batch */
    input.size = 1;
    for (size_t axis = 0; axis < input.rank; axis++) input.size *= (size_t)input.shape[axis];
    input.numbers = allocate(input.size * sizeof(float));
    if (strcmp(input.name, "observation") != 0) {
        check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, input.name, &input.law));
        if (input.law == NULL) {
            fprintf(stderr, "%s: neither observation nor noise; this example runs policies without memory\n", input.name);
            exit(1);
        }
    }
    return input;
}

/* A character of this line that is no space; its end, and that of the input, too. */
static int next_character(void) {
    int c;
    do c = getchar();
    while (c == ' ' || c == '\t' || c == '\r');
    return c;
}

/* The next line that is not empty: 1, or 0 at the end of the input, or -1 where it is no observation. */
static int read_observation(float *numbers, size_t size) {
    int c;
    do c = next_character();
    while (c == '\n');
    if (c == EOF) return 0;
    for (size_t i = 0; i < size; i++, c = next_character()) {
        ungetc(c, stdin);
        if (c == '\n' || c == EOF || scanf("%f", &numbers[i]) != 1) {
            fprintf(stderr, "observation: a line of %zu numbers is needed; entry %zu is none\n", size, i);
            return -1;
        }
        if (!isfinite(numbers[i])) {
            fprintf(stderr, "observation: entry %zu is not finite\n", i);
            return -1;
        }
    }
    if (c == '\n' || c == EOF) return 1;
    fprintf(stderr, "observation: a line of %zu numbers is needed; there is more\n", size);
    return -1;
}

int main(int count, char **words) {
    if (count < 2) {
        fprintf(stderr, "usage: act MODEL.onnx [SEED] < observations\n");
        return 2;
    }
    state = count > 2 ? strtoull(words[2], NULL, 10) : 0;
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (ort == NULL) {
        fprintf(stderr, "this ONNX Runtime is older than the header it was compiled with\n");
        return 1;
    }
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtModelMetadata *metadata;
    OrtAllocator *allocator;
    OrtMemoryInfo *memory;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "tether", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, 1));
    check(ort->CreateSession(environment, words[1], options, &session));
    check(ort->SessionGetModelMetadata(session, &metadata));
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

    Input inputs[MOST_INPUTS];
    const char *names[MOST_INPUTS];
    const OrtValue *values[MOST_INPUTS];
    size_t input_count;
    check(ort->SessionGetInputCount(session, &input_count));
    if (input_count > MOST_INPUTS) return 1;
    for (size_t i = 0; i < input_count; i++) {
        inputs[i] = describe(session, metadata, allocator, i);
        Input *input = &inputs[i];
        check(ort->CreateTensorWithDataAsOrtValue(memory, input->numbers, input->size * sizeof(float), input->shape,
                                                  input->rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input->value));
        names[i] = input->name;
        values[i] = input->value;
    }

    const char *outputs[] = {"action"};
    for (;;) {
        int found = read_observation(inputs[0].numbers, inputs[0].size); /* the observation is the first input */
        if (found < 0) return 1;
        if (found == 0) break;
        for (size_t i = 1; i < input_count; i++)
            for (size_t j = 0; j < inputs[i].size; j++) inputs[i].numbers[j] = draw(inputs[i].law);
        OrtValue *action = NULL;
        check(ort->Run(session, NULL, names, values, input_count, outputs, 1, &action));
        OrtTensorTypeAndShapeInfo *shape;
        size_t size;
        float *numbers;
        check(ort->GetTensorTypeAndShape(action, &shape));
        check(ort->GetTensorShapeElementCount(shape, &size));
        check(ort->GetTensorMutableData(action, (void **)&numbers));
        for (size_t i = 0; i < size; i++) printf(i + 1 < size ? "%.9g " : "%.9g\n", numbers[i]);
        fflush(stdout);
        ort->ReleaseTensorTypeAndShapeInfo(shape);
        ort->ReleaseValue(action);
    }
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseModelMetadata(metadata);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(environment);
    return 0;
}
