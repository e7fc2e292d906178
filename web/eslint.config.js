import js from '@eslint/js';
import hooks from 'eslint-plugin-react-hooks';
import globals from 'globals';
import ts from 'typescript-eslint';

export default ts.config({ ignores: ['dist'] }, js.configs.recommended, ts.configs.strict, {
  languageOptions: { globals: globals.browser },
  plugins: { 'react-hooks': hooks },
  rules: hooks.configs.recommended.rules,
});
